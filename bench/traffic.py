"""What is asked of both servers: one seed, one traffic, byte for byte.

Pure: (workload, clients, rounds, seed) in, `Traffic` out. Prompts are English words drawn by the
seed, so another seed is text that no cache has seen.
"""

from collections.abc import Callable
from random import Random

import msgspec

Message = dict[str, str]


class Call(msgspec.Struct, frozen=True):
    """One chat completion: greedy, streamed, with usage. `response_format` is JSON or nothing."""

    messages: tuple[Message, ...]
    max_tokens: int
    headers: tuple[tuple[str, str], ...] = ()
    response_format: str = ""


class Lane(msgspec.Struct, frozen=True):
    """One client: from `start_s` on, its calls one after the other."""

    calls: tuple[Call, ...]
    start_s: float = 0.0


class Traffic(msgspec.Struct, frozen=True):
    """Everything that one run sends. `warm_up` comes before the clock starts, one by one."""

    lanes: tuple[Lane, ...]
    warm_up: tuple[Call, ...] = ()

    @property
    def calls(self) -> int:
        """Calls that are measured."""
        return sum(len(lane.calls) for lane in self.lanes)


TOPICS = (
    *("tides", "bread", "maps", "glaciers", "violins", "bees", "bridges", "salt", "clocks"),
    *("ships", "rivers", "paper", "glass", "wool", "copper", "orchards", "lighthouses", "tea"),
    *("canals", "mirrors", "horses", "windmills", "ink", "candles", "snow", "silk", "gardens"),
)
WORDS = (
    *("the", "a", "old", "new", "small", "great", "water", "stone", "river", "hill", "house"),
    *("people", "town", "winter", "summer", "morning", "road", "work", "hand", "year", "light"),
    *("and", "of", "in", "with", "under", "over", "before", "after", "near", "from", "to"),
    *("made", "found", "left", "held", "moved", "kept", "built", "carried", "opened", "turned"),
    *("slowly", "often", "again", "always", "together", "early", "far", "well", "still", "once"),
)

ANSWER = 48  # tokens of a usual answer
SHORT = 16  # of an answer to a long prompt: what is measured there is the prefill
LONG_WORDS = 1310  # 1,500 tokens in SmolLM2's vocabulary, question and template included
SHARED_WORDS = 545  # 600 tokens
MIXED_WORDS = 900
TURNS = 4


def unique(random: Random, clients: int, rounds: int) -> Traffic:
    """Every call its own short question."""
    return _each(clients, rounds, lambda: Call((_user(_question(random)),), ANSWER))


def shared_prefix_cold(random: Random, clients: int, rounds: int) -> Traffic:
    """One long system prompt in front of different questions, seen for the first time."""
    system: Message = {"role": "system", "content": prose(random, SHARED_WORDS)}
    return _each(clients, rounds, lambda: Call((system, _user(_question(random))), ANSWER))


def shared_prefix_warm(random: Random, clients: int, rounds: int) -> Traffic:
    """The same, after one call with that system prompt."""
    system: Message = {"role": "system", "content": prose(random, SHARED_WORDS)}
    warm_up = Call((system, _user(_question(random))), ANSWER)
    traffic = _each(clients, rounds, lambda: Call((system, _user(_question(random))), ANSWER))
    return msgspec.structs.replace(traffic, warm_up=(warm_up,))


def repeat(random: Random, clients: int, rounds: int) -> Traffic:
    """Four questions, asked again and again."""
    asked = [Call((_user(_question(random)),), ANSWER) for _ in range(4)]
    return _each(clients, rounds, lambda: random.choice(asked))


def repeat_warm(random: Random, clients: int, rounds: int) -> Traffic:
    """The same four, each asked once before."""
    traffic = repeat(random, clients, rounds)
    warm_up: list[Call] = []
    for lane in traffic.lanes:
        for call in lane.calls:
            if call not in warm_up:
                warm_up.append(call)
    return msgspec.structs.replace(traffic, warm_up=tuple(warm_up))


def same(random: Random, clients: int, rounds: int) -> Traffic:
    """In each round every client asks one identical question."""
    calls = tuple(Call((_user(_question(random)),), ANSWER) for _ in range(rounds))
    return Traffic((Lane(calls),) * clients)


def chat(random: Random, clients: int, rounds: int) -> Traffic:
    """Conversations of four turns, `rounds` for each client, each turn sending all before it.

    The answers in the history are written by the seed, not by the server: so both get the same
    bytes, and a server finds in its cache the prompt of the turn before but not its answer.
    """
    return Traffic(
        tuple(
            Lane(tuple(call for _ in range(rounds) for call in _conversation(random)))
            for _ in range(clients)
        )
    )


def mixed(random: Random, clients: int, rounds: int) -> Traffic:
    """Short chats, every fourth call a long prompt among them."""
    count = 0

    def call() -> Call:
        nonlocal count
        count += 1
        if count % 4:
            return Call((_user(_question(random)),), ANSWER)
        return Call((_user(f"{prose(random, MIXED_WORDS)} {_question(random)}"),), SHORT)

    return _each(clients, rounds, call)


def long(random: Random, clients: int, rounds: int) -> Traffic:
    """Prompts of about 1,500 tokens."""
    return _each(
        clients,
        rounds,
        lambda: Call((_user(f"{prose(random, LONG_WORDS)} {_question(random)}"),), SHORT),
    )


# Answered faster than they can be asked: what the load generator can send is the limit.
KNOWN = ("repeat-warm",)
OVERLOAD = "overload"
OVERLOAD_FACTOR = 4

WORKLOADS: dict[str, Callable[[Random, int, int], Traffic]] = {
    "unique": unique,
    "shared-prefix-cold": shared_prefix_cold,
    "shared-prefix-warm": shared_prefix_warm,
    "repeat": repeat,
    "repeat-warm": repeat_warm,
    "same": same,
    "chat": chat,
    "mixed": mixed,
    OVERLOAD: unique,  # as a closed loop, which tells what can be carried; see `overload`
    "long": long,
}


def make(workload: str, clients: int, rounds: int, seed: str) -> Traffic:
    """Return the traffic of one run. Raises KeyError for an unknown workload."""
    return WORKLOADS[workload](Random(f"{workload} {clients} {seed}"), clients, rounds)


def overload(clients: int, rounds: int, seed: str, capacity_per_s: float) -> Traffic:
    """Return calls that come at four times `capacity_per_s`, whether or not others have ended.

    Arrivals are a Poisson process; each call is a client of its own.
    """
    random = Random(f"{OVERLOAD} {clients} {seed}")
    lanes, at = [], 0.0
    for _ in range(OVERLOAD_FACTOR * clients * rounds):
        lanes.append(Lane((Call((_user(_question(random)),), ANSWER),), start_s=round(at, 6)))
        at += random.expovariate(OVERLOAD_FACTOR * capacity_per_s)
    return Traffic(tuple(lanes))


def _each(clients: int, rounds: int, call: Callable[[], Call]) -> Traffic:
    return Traffic(
        tuple(Lane(tuple(call() for _ in range(rounds))) for _ in range(clients)),
    )


def _conversation(random: Random) -> list[Call]:
    history: list[Message] = []
    calls = []
    for _ in range(TURNS):
        history.append(_user(_question(random)))
        calls.append(Call(tuple(history), ANSWER))
        history.append({"role": "assistant", "content": prose(random, ANSWER)})
    return calls


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _question(random: Random) -> str:
    """Return a question whose answer is long: what ends early would blur the comparison."""
    first, second = random.sample(TOPICS, 2)
    scene = " ".join(random.choices(WORDS, k=random.randint(8, 24)))
    return (
        f"Story {random.randrange(1_000_000)}. Write a long and detailed story about {first} and "
        f"{second}. It begins like this: {scene}."
    )


def prose(random: Random, words: int) -> str:
    """Return sentences of `words` words in all, about as many tokens."""
    sentences, left = [], words
    while left > 0:
        size = min(left, random.randint(8, 16))
        sentences.append(" ".join(random.choices(WORDS, k=size)).capitalize() + ".")
        left -= size
    return " ".join(sentences)
