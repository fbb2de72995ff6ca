"""A front whose only model makes vectors: of a text, its length and a one; of tokens, their sum."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Sequence

from rayhost.errors import ModelNotFound
from rayhost.front.request import (
    CacheOutcome,
    Capabilities,
    Finish,
    GenerateRequest,
    ModelCard,
    PairPrompt,
    Piece,
    Question,
    Reading,
    Recalled,
    Run,
    Standing,
    Terms,
    TextPrompt,
    Times,
    TokenPrompt,
    WorkerHealth,
)

CAN = Capabilities(
    chat=False,
    completion=False,
    embedding=True,
    rerank=False,
    tools=False,
    json_schema=False,
    architecture="bert",
    quantization="F16",
    parameters=22,
    size_bytes=45,
    train_context=512,
    vocabulary=100,
    sliding_window=None,
    dimensions=2,
)


def vector_of(request: GenerateRequest) -> bytes:
    match request.prompt:
        case TextPrompt(text=text):
            numbers = [float(len(text)), 1.0]
        case TokenPrompt(tokens=tokens):
            numbers = [float(sum(tokens)), 1.0]
        case PairPrompt(query=query, document=document):
            numbers = [float(len(document) - len(query))]
        case _:
            raise TypeError(request.prompt)
    return array("f", numbers).tobytes()


class VectorRun:
    """Waits for its front's gate, then has its vector."""

    model = "minilm"
    cache: CacheOutcome = "miss"

    def __init__(self, front: "VectorFront", request: GenerateRequest) -> None:
        self._front = front
        self._request = request
        self.finish = Finish("stop", 3, 0, vector=vector_of(request))
        self.prompt_tokens = 3
        self.times = Times(0, 0, 0)
        self.tool_syntax = ""
        self.fingerprint = "fp_0123456789"

    async def __aiter__(self) -> AsyncIterator[Piece]:
        front = self._front
        front.turn.set()
        await front.gate.wait()
        await asyncio.sleep(0)  # while others run too
        if front.fails and (error := front.fails(self._request)):
            raise error
        nothing: tuple[Piece, ...] = ()
        for piece in nothing:
            yield piece

    def standing(self) -> Standing | None:
        return None

    def close(self) -> None:
        self._front.running -= 1
        self._front.closed += 1


class VectorFront:
    """Serves `minilm`, alias `small`. `refuses` and `fails` say what becomes of a request."""

    def __init__(self) -> None:
        self.card = ModelCard(
            "minilm", ("small",), "ready", "", 1_700_000_000, 512, concurrency=4, capabilities=CAN
        )
        self.requests: list[GenerateRequest] = []
        self.recalled: dict[str, Recalled] = {}
        self.refuses: Callable[[GenerateRequest], Exception | None] | None = None
        self.fails: Callable[[GenerateRequest], Exception | None] | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.turn = asyncio.Event()  # a run waits at the gate
        self.running = self.most = self.closed = 0

    def cards(self) -> Sequence[ModelCard]:
        return [self.card]

    def health(self) -> Sequence[WorkerHealth]:
        return []

    def draining(self) -> bool:
        return False

    def recall(self, request: GenerateRequest) -> Recalled | None:
        if isinstance(request.prompt, TextPrompt):
            return self.recalled.get(request.prompt.text)
        return None

    async def submit(self, request: GenerateRequest) -> Run:
        await asyncio.sleep(0)  # as a front that reads the prompt
        if request.model not in (self.card.name, *self.card.aliases):
            raise ModelNotFound(f"no model {request.model!r}", param="model")
        if self.refuses and (error := self.refuses(request)):
            raise error
        self.requests.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        return VectorRun(self, request)

    async def ask(self, model: str, question: Question, terms: Terms) -> Reading:
        raise NotImplementedError
