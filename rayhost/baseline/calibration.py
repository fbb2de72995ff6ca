"""What was measured and chosen on this host, in the store, by host and model.

Invariant: a record is used only for the host it was taken on and the file it was taken of; any
other is as good as none. Anyone may read; `rayhost bench`, `tune` and a running host write.

    ROOT/calibration/HOST/MODEL/baseline.json   the last `rayhost bench`
    ROOT/calibration/HOST/MODEL/tuned.json      the last `rayhost tune`
    ROOT/calibration/HOST/MODEL/memory.json     what workers took beyond what was predicted
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from rayhost.baseline.cpu import Cpu
from rayhost.baseline.records import Baseline, ModelBaseline
from rayhost.models.durable import commit_bytes
from rayhost.models.sources import check_name
from rayhost.models.store import StoredModel

Goal = Literal["throughput", "latency", "memory"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model file that something is measured of."""

    name: str
    path: Path
    identity: str


class Settings(msgspec.Struct, frozen=True):
    """The knobs beside the file; the defaults are those of a profile that leaves them alone.

    `threads` None is one for each core. `flash_attention` None is what suits the cells.
    """

    threads: int | None = None
    ubatch: int = 512
    kv_type: Literal["f16", "q8_0"] = "f16"
    kv_layout: Literal["split", "unified"] = "split"
    flash_attention: bool | None = None

    @property
    def flash(self) -> bool:
        """Whether attention is computed in one kernel: q8_0 cells need it, f16 is slower with it.

        At a depth of 600 on 2 cores, f16: 8 sequences decode in 84 ms with it and in 59 without,
        16 tokens of prefill take 144 and 61 ms (docs/performance.md).
        """
        return self.kv_type != "f16" if self.flash_attention is None else self.flash_attention


class Tuned(msgspec.Struct, frozen=True):
    """What `rayhost tune` chose for a file. `variant` is its file in the store, None: the source.

    `gain` is the ratio of the goal's figure, above 1 for better. A dry run is recorded with
    `applied` false: it tells what tuning would be worth and changes nothing that is served.
    """

    identity: str  # of the file that was tuned
    goal: Goal
    sequences: int
    gain: float
    settings: Settings
    variant: str | None
    label: str  # of the chosen weights
    taken_at: str
    applied: bool


KEPT_SURPLUSES = 5  # of a model's last workers


class Surplus(msgspec.Struct, frozen=True):
    """What workers of a file took of memory beyond what the governor had said, in bytes.

    `identity` is of the stored file, `file` the name of the one that was served; `sizes` are those
    of its last workers, the latest last.
    """

    identity: str
    file: str
    sizes: tuple[int, ...]


_Record = TypeVar("_Record", Baseline, Tuned, Surplus)


def identity(model: StoredModel) -> str:
    """Return what tells this file from another of the same name, without reading it."""
    if model.sha256 is not None:
        return f"sha256:{model.sha256}"
    now = model.path.stat()
    return f"file:{now.st_size}:{now.st_mtime_ns}"


def subject(model: StoredModel) -> Subject:
    """Return the model as something to measure."""
    return Subject(model.name, model.path, identity(model))


class Calibrations:
    """The records of one host."""

    def __init__(self, root: Path, cpu: Cpu) -> None:
        self._folder = root / "calibration" / cpu.key

    def baseline(self, model: StoredModel) -> Baseline | None:
        """Return the last baseline of this very file, if there is one."""
        found = _read(self._path(model.name, "baseline"), Baseline)
        if found is None or [entry.identity for entry in found.models] != [identity(model)]:
            return None
        return found

    def baselines(self) -> list[ModelBaseline]:
        """Return the last baseline of every model that was measured on this host."""
        paths = sorted(self._folder.glob("*/baseline.json"))
        return [model for path in paths if (one := _read(path, Baseline)) for model in one.models]

    def tuned(self, model: StoredModel) -> Tuned | None:
        """Return what tuning chose for this very file, if it was tuned."""
        found = _read(self._path(model.name, "tuned"), Tuned)
        return found if found is not None and found.identity == identity(model) else None

    def surplus(self, model: StoredModel, served: Path) -> int:
        """Return what to add to the memory predicted for a file, from earlier loads here.

        The lower median: one worker that a strange request blew up says nothing of the next.
        """
        sizes = sorted(self._surpluses(model, served))
        return sizes[(len(sizes) - 1) // 2] if sizes else 0

    def save_surplus(self, model: StoredModel, served: Path, size: int) -> None:
        """Record what a worker took beyond the prediction; 0 where that was enough."""
        sizes = self._surpluses(model, served)
        if size or any(sizes):
            kept = (*sizes, size)[-KEPT_SURPLUSES:]
            self._write(model.name, "memory", Surplus(identity(model), served.name, kept))

    def _surpluses(self, model: StoredModel, served: Path) -> tuple[int, ...]:
        found = _read(self._path(model.name, "memory"), Surplus)
        if found is None or (found.identity, found.file) != (identity(model), served.name):
            return ()
        return found.sizes

    def save_baseline(self, baseline: Baseline) -> None:
        """Record a baseline, under each of its models."""
        for entry in baseline.models:
            alone = msgspec.structs.replace(baseline, models=(entry,), failed=())
            self._write(entry.name, "baseline", alone)

    def save_tuned(self, name: str, tuned: Tuned) -> None:
        """Record what was chosen for the model `name`.

        A dry run changes nothing that is served: it never replaces a choice for the same file.
        """
        known = _read(self._path(name, "tuned"), Tuned)
        if not tuned.applied and known and known.applied and known.identity == tuned.identity:
            return
        self._write(name, "tuned", tuned)

    def forget_tuned(self, name: str) -> bool:
        """Forget what was chosen for the model; return whether there was anything."""
        path = self._path(name, "tuned")
        there = path.exists()
        path.unlink(missing_ok=True)
        return there

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / check_name(name) / f"{kind}.json"

    def _write(self, name: str, kind: str, record: Baseline | Tuned | Surplus) -> None:
        path = self._path(name, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        commit_bytes(msgspec.json.format(msgspec.json.encode(record)), path)


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        # Written by another version: measured anew, it is right again. Never a reason not to serve.
        return None
