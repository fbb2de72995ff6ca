"""The one place that reads a clock. A leaf.

CLOCK_MONOTONIC is the same for every process of the machine, so stamps taken in a worker can be
compared with stamps taken in the front.
"""

import time

now_ns = time.monotonic_ns
unix_seconds = time.time
