"""What each model's worker is to load: the file, the settings that fit into memory, the CPUs.

One model that cannot be had does not stop the others. A profile that cannot fit stops all: it is
refused before anything is loaded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from rayhost.baseline import cpu
from rayhost.baseline.calibration import Calibrations
from rayhost.cli import preload
from rayhost.cli.calibrated import Choice, calibrated
from rayhost.cli.changes import Planned
from rayhost.cli.locate import locate
from rayhost.cli.sizing import box_for, wish_for
from rayhost.errors import RayhostError
from rayhost.governor.costs import Setting
from rayhost.governor.fit import Box, Fitted, Wish, arithmetic, fit
from rayhost.governor.kernels import repacked
from rayhost.governor.readings import Kernel
from rayhost.ipc.messages import Load
from rayhost.models.gguf import read_info
from rayhost.models.shape import shape_of
from rayhost.models.store import Store, StoredModel, default_root
from rayhost.profile import ModelProfile, Profile
from rayhost.supervisor import pinning, topology
from rayhost.supervisor.governed import Budget, Demand
from rayhost.supervisor.pinning import Placement, Split

_log = structlog.get_logger("rayhost.serve")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model that is there to be loaded, but for its sizes."""

    model: ModelProfile
    stored: StoredModel
    choice: Choice
    placement: Placement
    prompts: tuple[str, ...]
    template: str
    wish: Wish


class Planner:
    """Plans the models of a profile. Made before anything is loaded: it sees what memory is free.

    The room is read once, so that a profile read again gives the same settings for the same models
    whatever their workers hold meanwhile.
    """

    def __init__(
        self,
        base: Path,
        log_format: Literal["json", "console"],
        kernel: Kernel | None = None,
    ) -> None:
        """`base` is the profile's folder."""
        self._base = base
        self._log_format: Literal["json", "console"] = log_format
        self._store = Store(default_root())
        self._cpu = cpu.host()
        self._records = Calibrations(self._store.root, self._cpu)
        kernel = kernel or Kernel()
        self._readings, own = kernel.read(), kernel.process("self")
        # What this process holds already is part of what the front is said to take.
        self._room = self._readings.room + (own.anonymous if own else 0)
        self._quota = kernel.quota() or math.inf
        # Read once, too: a front that was pinned since would take its own CPUs for all there are.
        self._topology = topology.read()
        self._split = pinning.split(self._topology, "auto", "auto")
        self._budget = Budget(Box(self._room, {}))

    @property
    def front(self) -> tuple[int, ...]:
        """The CPUs of the front, as planned last."""
        return self._split.front

    @property
    def budget(self) -> Budget:
        """What the models that were planned last want of this box."""
        return self._budget

    def plan(self, profile: Profile, alive: Callable[[], None] = lambda: None) -> list[Planned]:
        """Return what each model's worker is to load, or why it cannot.

        Raises DoesNotFit for a profile that memory cannot hold, RayhostError for bad CPUs, and the
        Stopped of `alive`, which is called while a model is pulled.
        """
        models, cpus = profile.models, profile.cpus
        split = pinning.split(self._topology, cpus.front, cpus.workers)
        found = [self._candidate(model, turn, split, alive) for turn, model in enumerate(models)]
        ready = [one for one in found if isinstance(one, _Candidate)]
        box = box_for(profile, self._room, self._readings.limit, repacked(self._cpu.flags))
        fitted = fit([one.wish for one in ready], box) if ready else None
        self._split = split
        self._budget = Budget(
            box,
            {one.model.name: self._demand(one) for one in ready},
            profile.governor,
            fitted.step if fitted else 0,
        )
        settings = iter(self._told(ready, fitted) if fitted else ())
        return [
            (model, self._load(one, next(settings)) if isinstance(one, _Candidate) else one)
            for model, one in zip(models, found, strict=True)
        ]

    def _demand(self, one: _Candidate) -> Demand:
        return Demand(one.wish, self._most_threads(one), partial(self._remember, one))

    def _remember(self, one: _Candidate, surplus: int) -> None:
        if surplus:
            _log.info("memory measured", model=one.model.name, surplus_mib=surplus >> 20)
        try:
            self._records.save_surplus(one.stored, one.choice.path, surplus)
        except OSError as error:  # a full disk, a store that is not ours: it serves all the same
            _log.warning("not remembered", model=one.model.name, reason=str(error))

    def _most_threads(self, one: _Candidate) -> int | None:
        """Return the threads without a quota; None where the profile names them."""
        if one.choice.settings.threads is not None:  # tuned on all CPUs that there are
            return min(one.choice.settings.threads, len(one.placement.cpus))
        if one.model.threads == "auto":
            return one.placement.cores
        # More than there are CPUs is the profile's own will; else a quota is followed.
        return one.model.threads if one.model.threads <= len(one.placement.cpus) else None

    def _told(self, ready: Sequence[_Candidate], fitted: Fitted) -> Sequence[Setting]:
        for one, setting, taken in zip(ready, fitted.settings, fitted.costs, strict=True):
            _log.info(
                "memory planned",
                model=one.model.name,
                arithmetic=arithmetic(one.model.name, setting, taken),
                room_mib=fitted.box.usable >> 20,
                step=fitted.step,
            )
        return fitted.settings

    def _candidate(
        self, model: ModelProfile, turn: int, split: Split, alive: Callable[[], None]
    ) -> _Candidate | RayhostError:
        placement = pinning.place(
            model.name,
            model.cpus,
            model.threads,
            topology=self._topology,
            pool=split.workers,
            turn=turn,
            quota=self._quota,
        )
        if model.threads != "auto" and placement.threads < model.threads:
            _log.warning(
                "fewer threads than the profile says: the CPU quota lets no more run at once",
                model=model.name,
                field=f"models[{turn}].threads",
                said=model.threads,
                threads=placement.threads,
                quota_cores=self._quota,
            )
        stored = locate(model, self._base, alive)
        if isinstance(stored, RayhostError):
            return stored
        choice = calibrated(model, stored, self._store, self._records)
        if choice.advice:
            _log.info("not tuned", advice=choice.advice)
        tuned = self._records.tuned(stored)
        try:
            prompts = preload.texts(model.preload, self._base)
            template = preload.text("chat_template", model.chat_template or "", self._base)
            shape = shape_of(read_info(choice.path))
        except RayhostError as error:
            return error
        surplus = self._records.surplus(stored, choice.path)
        free_kv = tuned is None or not tuned.applied
        wish = wish_for(model, choice.settings, shape, free_kv=free_kv, surplus=surplus)
        return _Candidate(model, stored, choice, placement, prompts, template, wish)

    def _load(self, one: _Candidate, setting: Setting) -> Load:
        model, settings = one.model, one.choice.settings
        threads = one.placement.threads
        if settings.threads is not None:  # tuned when there was no quota, or another
            most = min(settings.threads, len(one.placement.cpus))
            threads = max(1, math.floor(min(most, self._quota)))
        return Load(
            name=model.name,
            path=str(one.choice.path),
            stamp=_stamp(one.choice.path),
            context=setting.context,
            concurrency=setting.concurrency,
            batch=setting.batch,
            threads=threads,
            cpus=one.placement.cpus,
            kv_type=setting.kv_type,
            kv_layout=setting.kv_layout,
            inter_token_ms=model.inter_token_ms,
            log_format=self._log_format,
            ubatch=setting.ubatch,
            flash_attention=setting.flash_attention,
            snapshot_bytes=setting.snapshot_bytes,
            snapshot_dir=(
                str(self._store.root / "snapshots" / model.name) if model.snapshots.disk_mb else ""
            ),
            snapshot_dir_bytes=model.snapshots.disk_mb << 20,
            preload=one.prompts,
            chat_template=one.template,
        )


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what tells a file from another in its place; a new link or mode makes it no other."""
    try:
        found = path.stat()
    except OSError:  # gone since it was read: the worker will say so
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
