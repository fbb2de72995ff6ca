"""Who finds room for what waits to be read."""

import pytest

from rayhost.errors import Overloaded, QueueFull
from rayhost.front.fair import Claim
from rayhost.front.request import Priority, Terms
from rayhost.front.room import Room

HIGH, NORMAL, LOW, BATCH = Priority


def of(key: str = "", priority: Priority = NORMAL) -> Claim:
    return Claim.of(Terms(key=key, priority=priority))


@pytest.mark.parametrize(
    ("held", "comes", "size", "refused"),
    [
        ([], of(), 1000, None),  # one alone, whatever its size
        ([(of(), 60)], of(), 40, None),
        ([(of(), 60)], of(), 41, Overloaded),
        ([(of("a"), 30)], of("a"), 20, None),
        ([(of("a"), 30)], of("a"), 21, QueueFull),  # a key may have half of it
        ([(of("a"), 30), (of("b"), 30)], of("c"), 40, None),
        ([(of("a"), 50), (of("b"), 50)], of("c"), 1, Overloaded),
        ([(of("a", BATCH), 50), (of("b", LOW), 50)], of("c", NORMAL), 50, None),
        ([(of("a", BATCH), 50)], of("a", HIGH), 50, None),
        ([(of("a", HIGH), 50)], of("a", BATCH), 1, QueueFull),
    ],
)
def test_room_is_bounded_in_all_and_for_a_key_and_higher_ones_do_not_see_lower_ones(
    held: list[tuple[Claim, int]], comes: Claim, size: int, refused: type[Exception] | None
) -> None:
    room = Room(100, "bytes of text")
    for claim, taken in held:
        room.enter(claim, taken, 1)
    if refused is None:
        room.enter(comes, size, 1)
        return
    with pytest.raises(refused) as caught:
        room.enter(comes, size, 7)
    assert getattr(caught.value, "retry_after", None) == 7


def test_what_is_given_back_is_there_again() -> None:
    room = Room(100, "bytes of text")
    room.enter(of("a"), 100, 1)
    room.leave(of("a"), 100)
    room.enter(of("b"), 100, 1)
    with pytest.raises(Overloaded, match="100 bytes of text wait"):
        room.enter(of("c"), 1, 1)
