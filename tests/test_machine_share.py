"""What the system has of a machine's memory."""

import pytest

from rayhost.machine_share import machine_of, system_part

MIB = 1 << 20


@pytest.mark.parametrize("total", [256 * MIB, 512 * MIB, 1536 * MIB, 4096 * MIB, 65536 * MIB])
def test_a_machine_is_known_by_what_the_system_leaves(total: int) -> None:
    assert machine_of(total - system_part(total)) == total
    assert 96 * MIB <= system_part(total) <= total
