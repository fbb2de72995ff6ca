"""How the threads of llama.cpp and numpy behave, wherever one of our processes computes. A leaf.

Both libraries read the environment once, when they are loaded; what the operator set goes first.
"""

ENVIRONMENT = {
    # llama.cpp waits for its threads some hundred times a step. libgomp's default spins so long
    # that one busy neighbour on the cores costs a factor of ten; this long costs nothing on idle
    # cores and leaves most of the speed on busy ones (bench/spin_wait.py, docs/performance.md).
    "GOMP_SPINCOUNT": "2000",
    "OPENBLAS_NUM_THREADS": "1",  # no matrix is multiplied there
}
