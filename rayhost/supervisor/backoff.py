"""How long to wait before a lost worker is replaced. Pure."""

FIRST_S = 0.05
LONGEST_S = 10.0
STABLE_S = 60.0  # a worker that lived this long starts the count anew
LOAD_ATTEMPTS = 3  # a model whose workers die this often before any was ready is given up


def delay(failures: int, jitter: float) -> float:
    """Return the seconds to wait after `failures` losses in a row; `jitter` is drawn from [0, 1).

    The first is replaced almost at once; doubling from there, spread over half the interval so
    that several workers killed together do not all load at the same moment.
    """
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 20))
    return float(longest * (0.5 + 0.5 * jitter))
