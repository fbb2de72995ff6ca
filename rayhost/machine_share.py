"""How much of a machine's memory is not rayhost's. A leaf; standard library only.

`rayhost plan` counts with it, and `rayhost.slice` makes it true.
"""

_LEAST = 96 << 20  # kernel, systemd, sshd and a log daemon of a small Debian


def system_part(total: int) -> int:
    """Return the bytes that system, proxy and whoever logs in have of a machine with `total`."""
    return max(_LEAST, total // 16)
