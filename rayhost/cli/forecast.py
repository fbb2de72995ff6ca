"""What would be loaded on a machine, and what it would take, without loading or pulling anything.

A model that is not pulled yet is planned for by the shape that the catalog has of it. The machine
is this one, or one of other size with the same kind of CPU. A profile that is served already is
planned for with the memory that its host sees.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from rayhost import profile as profiles
from rayhost.baseline import cpu
from rayhost.baseline.calibration import Calibrations, Settings, identity
from rayhost.baseline.prediction import Job, Speed, predict
from rayhost.cli.calibrated import Choice, as_profiled, calibrated
from rayhost.cli.pull import wanted
from rayhost.cli.reachable import host_of
from rayhost.cli.sizing import box_for, wish_for
from rayhost.errors import RayhostError
from rayhost.governor.costs import Costs, Setting
from rayhost.governor.fit import Box, DoesNotFit, Wish, fit, price
from rayhost.governor.kernels import repacked
from rayhost.governor.ladder import levels
from rayhost.governor.readings import Kernel
from rayhost.governor.ways import Model, Ways
from rayhost.machine_share import system_part
from rayhost.models import catalog, catalog_shapes
from rayhost.models.gguf import read_info
from rayhost.models.shape import shape_of
from rayhost.models.store import Store, default_root
from rayhost.profile import Listen, ModelProfile


class Row(msgspec.Struct, frozen=True):
    """One model: what is chosen, and its memory in bytes."""

    name: str
    pulled: bool
    context: int
    concurrency: int
    batch: int
    kv_type: str
    weights: int
    weights_copied: int
    kv: int
    compute: int
    snapshots: int
    process: int
    children: int  # processes that the worker starts
    needed: int
    constrained: int  # more, once structured output or tools are asked for
    droppable: int  # file pages that are held only while nobody else wants the memory
    tokens_s: Speed | None  # None: no bench on this machine says anything of it
    constrained_refused: bool = False  # there is no room for that


class Plan(msgspec.Struct, frozen=True):
    """One profile on one machine, in bytes. `refusal` says why it does not fit."""

    profile: str
    limit: int
    room: int
    cores: float
    front: int
    needed: int
    models: tuple[Row, ...]
    refusal: str | None = None
    host: str | None = None  # the running host whose memory this is, as it sees it


@dataclass(frozen=True, slots=True)
class _Machine:
    """What a plan is for, in bytes. `host` is the URL of the running host that told."""

    limit: int
    room: int
    cores: float
    host: str | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """A model that may be planned for: what it wants, and what calibration may know it by."""

    wish: Wish
    pulled: bool
    name: str  # in the store
    identity: str | None  # None: a file that tuning made
    threads: int | None  # None: one for each core
    cpus: int | None  # how many it is pinned to


class Forecaster:
    """A machine, this one unless it is described, and the models known here."""

    def __init__(self, memory: int | None, cores: float | None) -> None:
        self._store = Store(default_root())
        here = cpu.host()
        self._records = Calibrations(self._store.root, here)
        box = Kernel().read()
        self._machine = _Machine(
            limit=box.limit if memory is None else memory,
            room=box.room if memory is None else max(0, memory - system_part(memory)),
            cores=box.cores if cores is None else cores,
        )
        self._described = (memory is not None, cores is not None)
        # Two hyperthreads compute no more than one; of another machine only cores are told.
        self._physical = here.cores if cores is None else max(1, math.floor(cores))
        self._repacks = repacked(here.flags)

    def plan(self, target: str) -> Plan:
        """Plan for a profile file, or for a model by its name or source. Raises RayhostError."""
        path = Path(target)
        if path.suffix == ".json" or (path.is_file() and path.suffix != ".gguf"):
            profile, base = profiles.load(path), path.parent
        else:
            # Not of any port: a host may be there that serves others.
            alone = profiles.Profile(models=(ModelProfile(target),), listen=Listen(port=0))
            profile, base = alone, Path.cwd()
        machine = self._told_by_host(profile, base) or self._machine
        # Of a described machine the system's part is no rayhost's: what is left is the limit.
        limit = min(machine.limit, machine.room) if self._described[0] else machine.limit
        box = box_for(profile, machine.room, limit, self._repacks)
        known = [self._known(model, base) for model in profile.models]
        plan = Plan(
            profile=target,
            limit=machine.limit,
            room=box.usable,
            cores=machine.cores,
            front=box.front,
            needed=0,
            models=(),
            host=machine.host,
        )
        try:
            fitted = fit([one.wish for one in known], box)
        except DoesNotFit as error:
            return msgspec.structs.replace(plan, refusal=str(error))
        chosen = zip(known, fitted.settings, fitted.costs, strict=True)
        governor = profile.governor
        ways = Ways((), levels(governor.ladder), box, profile.cache.bytes, fitted.step)
        rows = []
        for one in chosen:
            refused = governor.enabled and not _with_structured(ways, known, one[0]).bears(
                box.usable
            )
            row = self._row(*one, machine, box)
            rows.append(msgspec.structs.replace(row, constrained_refused=refused))
        return msgspec.structs.replace(plan, needed=fitted.needed, models=tuple(rows))

    def _told_by_host(self, profile: profiles.Profile, base: Path) -> _Machine | None:
        """Return the machine as the running host of a profile sees it, if there is one.

        What it holds is there for the profile: from here it would count as used. And its limit is
        that of its control group, which this process need not be in.
        """
        of_other_memory, of_other_cores = self._described
        state = None if of_other_memory else host_of(profile, base)
        if state is None or not state.memory.limit_bytes:  # it has not looked yet
            return None
        seen = state.memory
        # The governor keeps some free of what there is; a start does so too.
        room = seen.allowed_bytes + int(profile.governor.headroom * seen.limit_bytes)
        cores = self._machine.cores if of_other_cores else seen.cores
        return _Machine(seen.limit_bytes, room, cores, state.url)

    def _known(self, model: ModelProfile, base: Path) -> _Known:
        own = model.name.lower() if ":" in (model.source or "") else None
        want = wanted(model.source or model.name, own, self._store)
        stored = self._store.resolve(want.name, want.source, model.sha256 or want.sha256, base)
        cpus = None if model.cpus == "auto" else len(model.cpus)
        if stored is not None:
            choice = calibrated(model, stored, self._store, self._records)
            tuned = self._records.tuned(stored)
            wish = wish_for(
                model,
                choice.settings,
                shape_of(read_info(choice.path)),
                free_kv=tuned is None or not tuned.applied,
                surplus=self._records.surplus(stored, choice.path),
            )
            benched = identity(stored) if choice.path == stored.path else None
            threads = choice.settings.threads if model.threads == "auto" else model.threads
            return _Known(wish, True, stored.name, benched, threads, cpus)
        entry = next((one for one in catalog.ENTRIES if one.source == want.source), None)
        shape = catalog_shapes.BY_NAME.get(entry.name) if entry else None
        if entry is None or shape is None:
            raise RayhostError(
                f"{want.name}: nothing is known of it; run: rayhost pull {want.name}"
            )
        settings = as_profiled(model, Choice(Path(), Settings())).settings
        wish = wish_for(model, settings, shape, free_kv=True)
        threads = None if model.threads == "auto" else model.threads
        return _Known(wish, False, want.name, f"sha256:{entry.sha256}", threads, cpus)

    def _row(
        self, known: _Known, chosen: Setting, taken: Costs, machine: _Machine, box: Box
    ) -> Row:
        constrained = price(replace(known.wish, constrained=True), chosen, box)
        return Row(
            name=known.wish.name,
            pulled=known.pulled,
            context=chosen.context,
            concurrency=chosen.concurrency,
            batch=chosen.batch,
            kv_type=chosen.kv_type,
            weights=taken.mapped,
            weights_copied=taken.repacked,
            kv=taken.cells + taken.states,
            compute=taken.compute,
            snapshots=taken.snapshots,
            process=taken.process + taken.program + taken.vocabulary + taken.surplus,
            children=taken.children,
            needed=taken.needed,
            constrained=constrained.needed - taken.needed,
            droppable=taken.idle,
            tokens_s=self._speed(known, chosen, machine.cores),
        )

    def _speed(self, known: _Known, chosen: Setting, cores: float) -> Speed | None:
        most = max(1, math.floor(min(cores, known.cpus or cores)))
        job = Job(
            name=known.name,
            identity=known.identity,
            shape=known.wish.shape,
            sequences=chosen.concurrency,
            threads=min(most, known.threads or self._physical),
            share=min(1.0, cores),
            kv_type=chosen.kv_type,
            kv_layout=chosen.kv_layout,
        )
        return predict(job, self._records.baselines())


def _with_structured(ways: Ways, known: Sequence[_Known], asked: _Known) -> Ways:
    """Return what all would take once one was asked for structured output."""
    models = (Model(replace(one.wish, constrained=one is asked)) for one in known)
    return replace(ways, models=tuple(models))
