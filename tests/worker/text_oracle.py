"""What a stop string does to a text, said as plainly as possible."""


def cut_at_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """Return what comes before the first stop string, and whether there was one.

    Reading one character at a time, the first stop string to be complete ends the text; of several
    that end together, the longest counts.
    """
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False
