"""`python -m rayhost.worker MODEL CHANNEL PARENT`: started by the supervisor, never by hand.

MODEL is there for whoever reads `ps`; the model itself comes through the channel.
"""

import os
import sys

# Both libraries read these once, when they are loaded; what the operator set goes first.
# llama.cpp waits for its threads some hundred times a step. libgomp's default spins so long that
# one busy neighbour on the cores costs a factor of ten; this long costs nothing on idle cores and
# leaves most of the speed on busy ones (bench/spin_wait.py, docs/performance.md).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's: no matrix is multiplied there

from rayhost.worker.main import run

if __name__ == "__main__":
    run(sys.argv[2], int(sys.argv[3]))
