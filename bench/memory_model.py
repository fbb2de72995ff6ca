"""What the governor says a model takes of memory, against what it takes.

    python -m bench.memory_model [--model NAME|FILE]... [--one-billion]

Each row is a process of its own that loads the model and runs its largest steps. Prints the table
of docs/memory.md. `--one-billion` adds a model of random weights (0.7 GB in the temporary folder).
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from bench import random_model
from bench.memory_child import Held
from rayhost.baseline import cpu
from rayhost.baseline.calibration import Settings
from rayhost.errors import RayhostError
from rayhost.governor import kernels
from rayhost.governor.costs import MIB, Costs, Setting, costs
from rayhost.ipc.messages import Load
from rayhost.models.gguf import read_info
from rayhost.models.shape import Shape, shape_of
from rayhost.models.store import Store, default_root

SIZES = ((512, 1), (512, 8), (2048, 2), (2048, 8))  # context, sequences
KV: tuple[Literal["f16", "q8_0"], ...] = ("f16", "q8_0")
HEAD = (
    "| model | context x sequences | KV | cells: said / llama.cpp | step: said / llama.cpp "
    "| resident: said | measured | error |\n|---|---|---|---|---|---|---|---|"
)


def main(
    *,
    model: Annotated[list[str] | None, typer.Option(help="In the store, or a file.")] = None,
    one_billion: Annotated[bool, typer.Option(help="Random weights of 1.2 billion.")] = False,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print the table, and the largest error."""
    worst = 0.0
    typer.echo(HEAD)
    with files(model or ["smollm2-135m", "gemma3-270m"], one_billion) as found:
        for name, path in found:
            shape = shape_of(read_info(path))
            for context, sequences in SIZES:
                for kv_type in KV:
                    setting = Setting(
                        context=context,
                        concurrency=sequences,
                        batch=512,
                        kv_type=kv_type,
                        flash_attention=Settings(kv_type=kv_type).flash,
                    )
                    error = _row(name, path, shape, setting, threads)
                    worst = max(worst, abs(error))
    typer.echo(f"\nLargest error: {worst:.1%}")


def _row(name: str, path: Path, shape: Shape, setting: Setting, threads: int) -> float:
    """Measure and print one row; return the relative error of the resident memory."""
    said = costs(shape, setting, kernels.repacked(cpu.host().flags))
    held = _measure(path, setting, threads)
    error = said.resident / held.resident - 1
    cells = f"{_mib(said.cells + said.states)} / {_mib(_log(held, 'KV', 'RS'))}"
    step = f"{_mib(said.compute)} / {_mib(_log(held, 'compute', 'output'))}"
    typer.echo(
        f"| {name} | {setting.context:,} x {setting.concurrency} | {setting.kv_type} | {cells} "
        f"| {step} | {_mib(said.resident)} | {_mib(held.resident)} | {error:+.1%} |"
    )
    _same_weights(said, held)
    return error


def _same_weights(said: Costs, held: Held) -> None:
    copied = held.buffers.get("repacked", 0)
    if abs(said.repacked - copied) > MIB:
        raise RayhostError(
            f"the kernels copy {_mib(copied)} MiB of weights, not {_mib(said.repacked)}"
        )


def _measure(path: Path, setting: Setting, threads: int) -> Held:
    load = Load(
        name="measured",
        path=str(path),
        context=setting.context,
        concurrency=setting.concurrency,
        batch=setting.batch,
        threads=threads,
        cpus=cpu.host().ids,
        kv_type=setting.kv_type,
        kv_layout=setting.kv_layout,
        inter_token_ms=150,
        log_format="json",
        ubatch=setting.ubatch,
        flash_attention=setting.flash_attention,
    )
    order = msgspec.json.encode(load).decode()
    command = [sys.executable, "-m", "bench.memory_child", order]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=Held)


@contextmanager
def files(names: list[str], one_billion: bool) -> Iterator[list[tuple[str, Path]]]:
    """Yield the models' names and files, one of random weights among them where it is wanted."""
    store = Store(default_root())
    found: list[tuple[str, Path]] = []
    for name in names:
        path = Path(name)
        if not path.is_file():
            stored = store.find(name)
            if stored is None:
                raise RayhostError(f"{name}: not in the store; run: rayhost pull {name}")
            path = stored.path
        found.append((name if path.name != name else path.stem, path))
    with tempfile.TemporaryDirectory(prefix="rayhost-memory-") as folder:
        if one_billion:
            path = random_model.write(Path(folder) / "random-1b.gguf")
            found.append(("random 1B, Q4_0", path))
        yield found


def _log(held: Held, *kinds: str) -> int:
    return sum(held.buffers.get(kind, 0) for kind in kinds)


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f}"


if __name__ == "__main__":
    typer.run(main)
