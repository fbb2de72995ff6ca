"""What a lane's worker serves, and the refusal of requests that it cannot run.

A worker that comes may have another context or model than the last one: this is of the last. Pure.
"""

from dataclasses import dataclass
from typing import Self

from rayhost.front.capabilities import capabilities, check_input, check_task
from rayhost.front.prompts import check, check_bias
from rayhost.front.request import Capabilities, GenerateRequest
from rayhost.ipc.messages import Ready


@dataclass(frozen=True, slots=True)
class Served:
    """Sizes are in tokens, 0 before the first worker."""

    model: str
    context: int = 0
    vocabulary: int = 0
    capabilities: Capabilities | None = None

    @classmethod
    def of(cls, model: str, ready: Ready) -> Self:
        """Return what a ready worker serves."""
        return cls(model, ready.context, ready.vocabulary, capabilities(ready))

    def check_asked(self, request: GenerateRequest) -> None:
        """Raise InvalidRequest for what the model cannot do, before a prompt is read for it."""
        if self.capabilities is not None:
            check_task(request, self.model, self.capabilities)

    def check_read(self, request: GenerateRequest, prompt: list[int]) -> None:
        """Raise InvalidRequest or ContextLengthExceeded for tokens that it cannot run."""
        model, context, vocabulary = self.model, self.context, self.vocabulary
        if request.task == "generate":
            check(prompt, request.prompt, model=model, context=context, vocabulary=vocabulary)
            check_bias(request.sampling, model=model, vocabulary=vocabulary)
        else:
            check_input(prompt, model=model, context=context, vocabulary=vocabulary)
