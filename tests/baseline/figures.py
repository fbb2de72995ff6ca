"""A made-up baseline of two thread counts and two layouts, for what shows and stores it."""

from rayhost.baseline.cpu import Cpu
from rayhost.baseline.records import Bandwidth, Baseline, Memory, ModelBaseline, Quiet, Row, Work
from rayhost.baseline.spread import Spread

CPU = Cpu("Intel <Xeon>", "x86_64", (0, 1), 2, 32 << 20, ("AVX2", "AVX-512"))


def around(median: float) -> Spread:
    return Spread(median, median * 0.9, median * 1.2, 5)


def rows() -> tuple[Row, ...]:
    made = []
    for threads in (1, 2):
        for layout in ("split", "unified"):
            for depth, share in ((0, 1.0), (1024, 0.25)):
                slower = share * (1.0 if layout == "split" else 0.8)  # no line hides another
                made.append(Row(threads, layout, "prefill", 1, depth, around(400 * threads)))
                made += [
                    Row(
                        threads,
                        layout,
                        "generate",
                        batch,
                        depth,
                        around(50 * threads * batch**0.6 * slower),
                    )
                    for batch in (1, 2, 4, 8, 16)
                ]
    return tuple(made)


def model(name: str = "m", identity: str = "sha256:1", work: Work | None = None) -> ModelBaseline:
    return ModelBaseline(
        name=name,
        identity=identity,
        quantization="Q4_0",
        parameters=135_000_000,
        weight_bytes=90_000_000,
        load_ms=around(200),
        memory=Memory(at_rest=180_000_000, per_sequence=27_000_000, context=1184),
        weights_read=Bandwidth(2, 90_000_000, False, around(18e9)),
        rows=rows(),
        missing=("4 threads, split KV, 16 sequences: no time left",),
        work=work,
    )


def baseline(*models: ModelBaseline, others: float = 0.0) -> Baseline:
    return Baseline(
        cpu=CPU,
        taken_at="2026-01-02T03:04:05+00:00",
        seconds=118.0,
        quick=False,
        memory=(Bandwidth(1, 1 << 30, True, around(6e9)), Bandwidth(2, 1 << 30, True, around(9e9))),
        quiet=Quiet(others, 0.0),
        models=models or (model(),),
    )
