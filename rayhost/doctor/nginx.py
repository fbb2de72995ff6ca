"""nginx's configuration as a tree, and what it does with requests for our port. Pure.

Knows as much of nginx as the doctor's questions need: blocks, inheritance, which location is taken.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\#[^\n]* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [{};] | (?:\$\{\w+\}|[^\s{};])+""",
    re.VERBOSE,
)
_TARGET = re.compile(r"https?://(\[[^]]*\]|[^:/$]+)(?::(\d+))?")
_GUARDS = frozenset({"auth_basic", "auth_request", "return", "internal", "deny"})


@dataclass(frozen=True, slots=True)
class Block:
    """A directive with a block; `plain` are those without one that stand in it."""

    words: tuple[str, ...] = ()
    plain: list[tuple[str, ...]] = field(default_factory=list)
    blocks: list["Block"] = field(default_factory=list)

    def named(self, name: str) -> Iterator["Block"]:
        """Yield the blocks of that name in it."""
        return (one for one in self.blocks if one.words[:1] == (name,))

    def values(self, name: str) -> list[tuple[str, ...]]:
        """Return the arguments of the directives of that name."""
        return [words[1:] for words in self.plain if words[0] == name]


def parse(text: str) -> Block:
    """Return the tree of a file; what does not close is closed by its end."""
    stack, words = [Block()], list[str]()
    for token in _TOKEN.findall(text):
        if token == "{":
            stack.append(Block(tuple(words)))
            stack[-2].blocks.append(stack[-1])
        elif token == "}" and len(stack) > 1:
            stack.pop()
        elif token == ";" and words:
            stack[-1].plain.append(tuple(words))
        elif token[0] not in "#{};":
            words.append(token[1:-1] if token[0] in "\"'" else token)
            continue
        else:
            continue
        words = []
    return stack[0]


def upstreams(tree: Block, port: int) -> Iterator[str]:
    """Yield the names of upstreams with a server at our port."""
    for one in (tree, *tree.named("http")):
        for block in one.named("upstream"):
            if any(words and words[0].endswith(f":{port}") for words in block.values("server")):
                yield block.words[1]


@dataclass(frozen=True, slots=True)
class Server:
    """A server with all that it inherits, the outermost first."""

    outer: Sequence[Block]
    block: Block
    port: int
    names: frozenset[str]  # of upstreams that are ours

    @property
    def locations(self) -> list[Sequence[Block]]:
        """Those that lead to us for clients, each with what it inherits."""
        found = _nested((*self.outer, self.block))
        return [one for one in found if self._proxied(one[-1]) and not _has(one[-1], "internal")]

    @property
    def metrics_are_open(self) -> bool:
        """Whether /metrics is ours to answer, and nothing stands before it."""
        taken = _location(self.block, "/metrics")
        return taken is not None and self._leads(taken) and not self._guarded(taken)

    def _leads(self, block: Block) -> bool:
        named = {words[-1] for words in block.values("try_files")}
        fallback = (one for one in self.block.named("location") if one.words[-1] in named)
        return self._proxied(block) or any(map(self._proxied, fallback))

    def _proxied(self, block: Block) -> bool:
        for words in block.values("proxy_pass"):
            found = _TARGET.match(words[0]) if words else None
            if found and (found[2] == str(self.port) or found[1] in self.names):
                return True
        return False

    def _guarded(self, block: Block) -> bool:
        return any(
            words[0] in _GUARDS and words[1:] != ("off",)
            for one in (self.block, block)
            for words in one.plain
        )


def servers(
    tree: Block, port: int, names: frozenset[str], outer: Sequence[Block]
) -> Iterator[Server]:
    """Yield the servers of a file that lead to us; `outer` is what its file is included in."""
    for one in (tree, *tree.named("http")):
        for block in one.named("server"):
            server = Server((*outer, one), block, port, names)
            if server.locations:
                yield server


def setting(chain: Sequence[Block], name: str) -> str | None:
    """Return a setting where it is nearest to the end of a chain, or None if nowhere."""
    for block in reversed(chain):
        if values := block.values(name):
            return " ".join(values[-1])
    return None


def _has(block: Block, name: str) -> bool:
    return bool(block.values(name))


def _nested(chain: Sequence[Block]) -> Iterator[Sequence[Block]]:
    for name in ("location", "if", "limit_except"):
        for block in chain[-1].named(name):
            yield (*chain, block)
            yield from _nested((*chain, block))


def _location(block: Block, path: str) -> Block | None:
    """Return the location that nginx takes for a path: exact, `^~`, the first regex, longest."""
    prefixes: Mapping[str, tuple[str, Block]] = {
        one.words[-1]: (one.words[1], one)
        for one in block.named("location")
        if len(one.words) > 1 and one.words[1] not in ("~", "~*") and one.words[-1][0] != "@"
    }
    best = max((one for one in prefixes if path.startswith(one)), key=len, default=None)
    how, taken = prefixes[best] if best is not None else ("", None)
    if how == "=" and best != path:
        rest = [one for one in block.blocks if one is not taken]
        return _location(Block(block.words, block.plain, rest), path)
    if how not in ("=", "^~"):
        for one in block.named("location"):
            if len(one.words) > 2 and one.words[1] in ("~", "~*") and _matches(one.words, path):
                taken = one
                break
    return (_location(taken, path) or taken) if taken else None


def _matches(words: Sequence[str], path: str) -> bool:
    try:
        return bool(re.search(words[2], path, re.IGNORECASE if words[1] == "~*" else 0))
    except re.error:  # of a kind that only PCRE knows
        return False
