"""`python -m bench.antagonist MIB SECONDS RAMP_S`: takes memory, holds it, gives it back, and ends.

It takes a MiB at a time over `RAMP_S`. Needs nothing but Python's own library.
"""

import mmap
import sys
import time

MIB = 1 << 20


def main() -> None:
    """Take, say so, hold, end."""
    mib, seconds, ramp_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    area = mmap.mmap(-1, mib * MIB)
    began = time.monotonic()
    for number in range(mib):
        for page in range(number * MIB, (number + 1) * MIB, mmap.PAGESIZE):
            area[page] = 1
        wait_s = began + ramp_s * (number + 1) / mib - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
    sys.stdout.write("taken\n")
    sys.stdout.flush()
    time.sleep(seconds)


if __name__ == "__main__":
    main()
