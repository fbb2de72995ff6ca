"""What tells one content of a file from another without reading it.

Whoever keeps what a file's content was good for, in this process or on disk, compares stamps: so
all of them notice the same changes.
"""

import os

Stamp = tuple[int, ...]


def stamp_of(path: str) -> Stamp | None:
    """Return what changes when a file is replaced or written to; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:  # whoever opens it says what is wrong with it
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
