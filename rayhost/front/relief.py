"""What becomes of requests while memory is short: shorter, by another model, or refused. Pure.

Set by the governor, asked by `host` for each request before anything is looked up or queued.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from rayhost.errors import Overloaded
from rayhost.front.request import GenerateRequest, Priority

RETRY_S = 15  # about as long as it takes before anything grows again


@dataclass(frozen=True, slots=True)
class Relief:
    """`rungs` are told in X-Rayhost-Degraded; `shed` is the highest priority that is refused.

    `instead` names the model that answers for each that does without a process.
    """

    rungs: tuple[str, ...] = ()
    max_tokens: int | None = None
    shed: Priority | None = None
    instead: Mapping[str, str] = field(default_factory=dict)

    def check(self, request: GenerateRequest) -> None:
        """Raise Overloaded for a request of a priority that is refused."""
        priority = request.terms.priority
        if self.shed is not None and priority >= self.shed:
            raise Overloaded(
                f"memory is short, and requests of priority {priority.name.lower()} are refused",
                code="shed",
                retry_after=RETRY_S,
            )

    def shortened(self, request: GenerateRequest) -> GenerateRequest:
        """Return the request with no more tokens than are given now."""
        most = self.max_tokens
        if most is None or request.task != "generate":
            return request
        if request.max_tokens is not None and request.max_tokens <= most:
            return request
        return replace(request, max_tokens=most)


NONE = Relief()
