"""The shapes of the catalog's models, so that they can be planned for before they are pulled.

Constants only, each what `shape.shape_of` says of the pinned file (a test compares).
"""

from rayhost.models.shape import Layers, Shape, Weights

BY_NAME: dict[str, Shape] = {
    "smollm2-135m": Shape(
        architecture="llama",
        quantization="Q4_1",
        parameters=134_515_008,
        embedding=576,
        feed_forward=1536,
        heads=9,
        attention=576,
        vocabulary=49_152,
        strings=98_052,
        train_context=8192,
        layers=(Layers(count=30, key=192, value=192),),
        weights=(
            Weights("F32", 140_544, "matrix", 1),
            Weights("Q4_1", 66_355_200, "matrix", 16),
            Weights("Q8_0", 30_081_024, "both", 16),
        ),
    ),
    "gemma3-270m": Shape(
        architecture="gemma3",
        quantization="Q4_K_M",
        parameters=268_098_176,
        embedding=640,
        feed_forward=2048,
        heads=4,
        attention=1024,
        vocabulary=262_144,
        strings=262_144,
        train_context=32_768,
        layers=(
            Layers(count=15, key=256, value=256, window=512),
            Layers(count=3, key=256, value=256),
        ),
        weights=(
            Weights("F32", 223_744, "matrix", 1),
            Weights("Q4_K", 13_271_040, "matrix", 16),
            Weights("Q5_0", 43_591_680, "matrix", 16),
            Weights("Q6_K", 9_676_800, "matrix", 16),
            Weights("Q8_0", 178_257_920, "both", 16),
            Weights("Q8_0", 1_566_720, "matrix", 16),
        ),
    ),
    "all-minilm-l6-v2": Shape(
        architecture="bert",
        quantization="F16",
        parameters=22_565_376,
        embedding=384,
        feed_forward=1536,
        heads=12,
        attention=384,
        vocabulary=30_522,
        strings=30_522,
        train_context=512,
        layers=(Layers(count=6, key=0, value=0),),
        weights=(
            Weights("F16", 23_440_896, "both", 2),
            Weights("F16", 21_233_664, "matrix", 16),
            Weights("F32", 122_880, "matrix", 1),
            Weights("F32", 789_504, "rows", 1),
        ),
    ),
}
