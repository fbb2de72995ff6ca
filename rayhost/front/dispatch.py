"""What a lane does with the run whose turn it is. Pure: the lane makes the move and asks again.

Of the suspects of a worker's death one runs at a time, prompts that are to be read first, and
nobody starts beside it until it has got on: so the one that kills workers is found, and no other
falls with it again, or for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rayhost.errors import DeadlineExceeded
from rayhost.front.admission import Admission
from rayhost.front.preemption import Held, victims
from rayhost.front.request import Priority
from rayhost.front.run import ActiveRun


@dataclass(frozen=True, slots=True)
class Move:
    """The next step of a lane: `run` is refused where it is `late`, else others make room for it.

    `urgent`: the worker is to compute it before what it was given earlier.
    """

    run: ActiveRun
    late: DeadlineExceeded | None = None
    gives_way: tuple[ActiveRun, ...] = ()
    starts: bool = False
    urgent: bool = False


def next_move(
    admission: Admission[ActiveRun],
    started: Sequence[ActiveRun],
    *,
    sequences: int,
    ahead: int,
    suspect_prompt: bool,
    now_ns: int,
) -> Move | None:
    """Return what to do now that there is a worker; None while there is nothing.

    `started` is in the order of starting, and at most `ahead` of those wait in the worker for one
    of its `sequences`. `suspect_prompt`: it reads one that workers may have died of.
    """
    if not admission.queue:
        return None
    run = admission.queue.head(now_ns)
    if any(one.record.suspect for one in started) or (run.record.suspect and suspect_prompt):
        return None
    # One that has a part of its answer is carried on, whatever the estimate says.
    late = None if run.produced else admission.late(run, started, now_ns)
    if late is not None:
        return Move(run, late=late)
    held = [(one, _held(one)) for one in started]
    gives_way = tuple(victims(run.claim.priority, held, sequences, now_ns))
    starts = len(started) - len(gives_way) < sequences + ahead
    if not starts and not gives_way:
        return None
    return Move(run, gives_way=gives_way, starts=starts, urgent=_urgent(admission, run))


def _urgent(admission: Admission[ActiveRun], run: ActiveRun) -> bool:
    """High priority, and a lower one whose turn has come before higher ones that wait."""
    priority = run.claim.priority
    return priority is Priority.HIGH or any(
        admission.queue.size(one) for one in Priority if one < priority
    )


def _held(run: ActiveRun) -> Held:
    return Held(
        priority=run.claim.priority,
        since_ns=run.given_ns,
        left=run.max_tokens - len(run.produced),
        tokens=len(run.prompt) + len(run.produced),
        times=run.gave_way,
    )
