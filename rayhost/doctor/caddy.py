"""A Caddyfile as far as the doctor asks: which sites lead to our port, and is /metrics kept. Pure.

A matcher that is about other things than paths is taken to keep strangers out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from rayhost.doctor.nginx import Block

_TOKEN = re.compile(r'`[^`]*`|"(?:\\.|[^"\\])*"|\S+')
_CONTAINERS = ("handle", "handle_path", "route")
_CLOSING = ("respond", "error", "abort", "redir")
_ASKING = ("basicauth", "basic_auth", "forward_auth")
_METRICS = "/metrics"


def parse(text: str) -> Block:
    """Return the tree of a file: a directive ends with its line, or with the block behind it."""
    stack = [Block()]
    for line in text.splitlines():
        words = _TOKEN.findall(line)
        comment = next((at for at, word in enumerate(words) if word[0] == "#"), len(words))
        words = words[:comment]
        if words == ["}"] and len(stack) > 1:
            stack.pop()
        elif words[-1:] == ["{"]:
            stack.append(Block(tuple(words[:-1])))
            stack[-2].blocks.append(stack[-1])
        elif words:
            stack[-1].plain.append(tuple(words))
    return stack[0]


def sites(tree: Block, port: int) -> Iterator[Block]:
    """Yield the sites that lead to us; a file of one site may have no braces."""
    for site in (tree, *tree.blocks):
        if any(True for _ in _proxies(site, port, ())):
            yield site


def metrics_are_open(site: Block, port: int) -> bool:
    """Tell whether /metrics of a site is ours to answer, and nothing stands before it."""
    matchers: dict[str, Sequence[Sequence[str]]] = {
        words[0]: (words[1:],) for words in site.plain if words[0][0] == "@"
    }
    matchers |= {
        one.words[0]: tuple(one.plain)
        for one in site.blocks
        if one.words and one.words[0][0] == "@"
    }
    leads = any(_passes(chain, matchers) for chain in _proxies(site, port, ()))
    closed = any(
        _passes(chain, matchers) and (asks or any(chain)) for chain, asks in _closers(site, ())
    )
    return leads and not closed


def _directives(block: Block) -> Iterator[tuple[tuple[str, ...], Block | None]]:
    yield from ((words, None) for words in block.plain)
    yield from ((one.words, one) for one in block.blocks if one.words)


def _proxies(block: Block, port: int, chain: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the matchers on the way to each proxy to our port."""
    for words, inner in _directives(block):
        if words[0] == "reverse_proxy":
            targets = [
                *words[1:],
                *(one for to in (inner.values("to") if inner else []) for one in to),
            ]
            if any(one.endswith(f":{port}") for one in targets):
                yield (*chain, _matcher(words))
        elif inner and words[0] in _CONTAINERS:
            yield from _proxies(inner, port, (*chain, _matcher(words)))


def _closers(block: Block, chain: Sequence[str]) -> Iterator[tuple[Sequence[str], bool]]:
    """Yield the matchers on the way to what answers by itself, or asks who is there (true)."""
    for words, inner in _directives(block):
        if words[0] in _CLOSING or words[0] in _ASKING:
            yield (*chain, _matcher(words)), words[0] in _ASKING
        elif inner and words[0] in _CONTAINERS:
            yield from _closers(inner, (*chain, _matcher(words)))


def _matcher(words: Sequence[str]) -> str:
    return words[1] if len(words) > 1 and words[1][0] in "/@*" and words[1] != "*" else ""


def _passes(chain: Sequence[str], matchers: Mapping[str, Sequence[Sequence[str]]]) -> bool:
    return all(_match(one, matchers) for one in chain)


def _match(matcher: str, matchers: Mapping[str, Sequence[Sequence[str]]]) -> bool:
    if matcher[:1] != "@":
        return not matcher or fnmatchcase(_METRICS, matcher)
    return bool(matchers.get(matcher)) and all(map(_holds, matchers[matcher]))


def _holds(condition: Sequence[str]) -> bool:
    match condition:
        case ["path", *patterns]:
            return any(fnmatchcase(_METRICS, one) for one in patterns)
        case ["not", *rest]:
            return rest[:1] == ["path"] and not _holds(rest)
    return False
