"""Things that wait, for tests of the queue: a claim and a name, nothing to run."""

from dataclasses import dataclass

from rayhost.front.fair import Claim
from rayhost.front.request import Priority

S = 1_000_000_000


@dataclass(eq=False)
class Waiter:
    claim: Claim
    name: str = ""


def waiter(
    name: str = "",
    *,
    key: str = "",
    weight: float = 1.0,
    priority: Priority = Priority.NORMAL,
    prompt: int = 10,
    answer: int = 10,
    deadline_s: float | None = None,
) -> Waiter:
    claim = Claim(
        key=key,
        weight=weight,
        priority=priority,
        prompt=prompt,
        answer=answer,
        most=answer,
        deadline_ns=None if deadline_s is None else round(deadline_s * S),
    )
    return Waiter(claim, name)
