"""What a model can do, as its worker found in the file, and the refusal of what it cannot.

Pure. Used by `served`: whichever endpoint a request came by, it is checked once, here.
"""

from rayhost.errors import ContextLengthExceeded, InvalidRequest
from rayhost.front.request import Capabilities, ChatPrompt, GenerateRequest
from rayhost.ipc.messages import Ready

NOT_SUPPORTED = "model_not_supported"


def capabilities(ready: Ready) -> Capabilities:
    """Return what a ready worker's model is."""
    generates = ready.task == "generate"
    return Capabilities(
        chat=generates and ready.chat,
        completion=generates,
        embedding=ready.task == "embed",
        rerank=ready.task == "rank",
        tools=generates and ready.chat and (ready.tools or False),
        json_schema=generates,
        architecture=ready.architecture,
        quantization=ready.quantization,
        parameters=ready.parameters,
        size_bytes=ready.size_bytes,
        train_context=ready.train_context,
        vocabulary=ready.vocabulary,
        sliding_window=ready.sliding_window or None,
        dimensions=ready.dimensions if ready.task == "embed" else None,
    )


def check_task(request: GenerateRequest, model: str, can: Capabilities) -> None:
    """Raise InvalidRequest where the model is for something else."""
    allowed = {"generate": can.completion, "embed": can.embedding, "rank": can.rerank}
    if allowed[request.task]:
        return
    wanted = {
        "generate": "chat" if isinstance(request.prompt, ChatPrompt) else "write text",
        "embed": "make embeddings",
        "rank": "rank documents",
    }
    raise InvalidRequest(
        f"the model {model!r} does not {wanted[request.task]}: it is for {_routes(can)}",
        code=NOT_SUPPORTED,
        param="model",
    )


def _routes(can: Capabilities) -> str:
    if can.embedding:
        return "/v1/embeddings"
    if can.rerank:
        return "/v1/rerank"
    return "/v1/chat/completions and /v1/completions" if can.chat else "/v1/completions"


def check_input(tokens: list[int], *, model: str, context: int, vocabulary: int) -> None:
    """Raise InvalidRequest or ContextLengthExceeded for tokens that cannot become a vector."""
    if not tokens:
        raise InvalidRequest("it has no token", param="input")
    if len(tokens) > context:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens. However, it has "
            f"{len(tokens)} tokens.",
            param="input",
        )
    for bad in (min(tokens), max(tokens)):
        if not 0 <= bad < vocabulary:
            raise InvalidRequest(
                f"{bad} is not a token of {model!r}: ids are from 0 to {vocabulary - 1}",
                param="input",
            )
