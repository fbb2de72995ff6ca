"""How much of a machine's memory is not rayhost's. A leaf; standard library only.

`rayhost plan` counts with it, and `rayhost.slice` makes it true.
"""

_LEAST = 96 << 20  # kernel, systemd, sshd and a log daemon of a small Debian


def system_part(total: int) -> int:
    """Return the bytes that system, proxy and whoever logs in have of a machine with `total`."""
    return max(_LEAST, total // 16)


def machine_of(share: int) -> int:
    """Return the memory of a machine of which `share` bytes are left by the system."""
    return max(share + _LEAST, share * 16 // 15)
