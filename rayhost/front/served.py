"""What a lane's worker serves, and the refusal of requests that it cannot run.

A worker that comes may have another context or model than the last one: this is of the last. Pure.
"""

from dataclasses import dataclass
from typing import Self

from rayhost.errors import ApiError, ContextLengthExceeded, Overloaded
from rayhost.front.capabilities import capabilities, check_input, check_task
from rayhost.front.prompts import check, check_bias
from rayhost.front.relief import RETRY_S
from rayhost.front.request import Capabilities, GenerateRequest
from rayhost.ipc.messages import Ready


@dataclass(frozen=True, slots=True)
class Served:
    """Sizes are in tokens, 0 before the first worker."""

    model: str
    context: int = 0
    vocabulary: int = 0
    capabilities: Capabilities | None = None
    preloaded: int = 0  # of the longest prompt that is held ready

    @classmethod
    def of(cls, model: str, ready: Ready) -> Self:
        """Return what a ready worker serves."""
        told = capabilities(ready)
        return cls(model, ready.context, ready.vocabulary, told, ready.preloaded)

    def check_asked(self, request: GenerateRequest) -> None:
        """Raise InvalidRequest for what the model cannot do, before a prompt is read for it."""
        if self.capabilities is not None:
            check_task(request, self.model, self.capabilities)

    def check_read(self, request: GenerateRequest, prompt: list[int], full: int) -> None:
        """Raise InvalidRequest or ContextLengthExceeded for tokens that it cannot run.

        Overloaded where they are too many only now, while memory is short; `full` is the context
        that there is room for at other times.
        """
        model, context, vocabulary = self.model, self.context, self.vocabulary
        last = request.task == "generate"  # a place is for the answer
        if context < len(prompt) + last <= full:
            raise self._too_small(prompt, full)
        if request.task == "generate":
            check(prompt, request.prompt, model=model, context=context, vocabulary=vocabulary)
            check_bias(request.sampling, model=model, vocabulary=vocabulary)
        else:
            check_input(prompt, model=model, context=context, vocabulary=vocabulary)

    def refusal(self, prompt: list[int], how: ApiError, full: int) -> ApiError:
        """Return what one is told whose prompt is refused with `how`: another time it may fit."""
        too_long = how.code == ContextLengthExceeded.code and len(prompt) < full
        return self._too_small(prompt, full) if too_long else how

    def _too_small(self, prompt: list[int], full: int) -> Overloaded:
        return Overloaded(
            f"memory is short: the context of {self.model!r} is {self.context:,} tokens now, not "
            f"{full:,}, and your prompt has {len(prompt):,}",
            code="no_memory",
            retry_after=RETRY_S,
        )
