"""How long to wait before a lost worker is replaced. Pure."""

FIRST_S = 0.05
LONGEST_S = 10.0
FORGIVEN_S = 1.0  # of service make up for one loss
LOAD_ATTEMPTS = 3  # a model whose workers die this often before any was ready is given up


def after(failures: int, served_s: float) -> int:
    """Return the losses that count after one more, of a worker that was ready for `served_s`.

    So a worker that is killed every few seconds from outside is replaced at once each time, and
    one that dies of its first requests ever more slowly.
    """
    return max(0, failures - int(served_s / FORGIVEN_S)) + 1


def delay(failures: int, jitter: float) -> float:
    """Return the seconds to wait after so many losses; `jitter` is drawn from [0, 1).

    The first is replaced almost at once; doubling from there, spread over half the interval so
    that several workers killed together do not all load at the same moment.
    """
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 20))
    return float(longest * (0.5 + 0.5 * jitter))
