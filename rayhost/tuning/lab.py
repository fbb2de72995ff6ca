"""`python -m rayhost.tuning.lab TASK`: quantize a file, or compare the predictions of two.

The only module of this package that touches the engine; started by `tuning.bench`, never imported.
"""

import os
from pathlib import Path

import msgspec
import numpy as np

from rayhost.baseline import child
from rayhost.engine.base import EngineFailed, LoadError
from rayhost.engine.llama import LlamaEngine, quantize
from rayhost.tuning.quality import Rows, Tally
from rayhost.tuning.tasks import Failed, Judge, Judged, Task, Written

WINDOW = 512  # tokens that a prediction can look back on
UNJUDGED = 32  # first tokens of a window: with so little before them, any model guesses


def main() -> None:
    """Do the task of this process."""
    task: Task = msgspec.json.decode(child.begin(), type=Task)
    try:
        if isinstance(task, Judge):
            child.emit(judge(task))
        else:
            quantize(task.source, task.target, task.file_type, task.embedding, task.threads)
            child.emit(Written(Path(task.target).stat().st_size))
    except (LoadError, EngineFailed, ValueError) as error:
        child.emit(Failed(str(error)))


def judge(task: Judge) -> Judged:
    """Run both models over the text. Raises LoadError, EngineFailed and ValueError."""
    os.sched_setaffinity(0, task.reference.cpus)
    reference, candidate = LlamaEngine(task.reference), LlamaEngine(task.candidate)
    if reference.facts.vocabulary != candidate.facts.vocabulary:
        raise ValueError(
            f"the models have vocabularies of {reference.facts.vocabulary:,} and "
            f"{candidate.facts.vocabulary:,} tokens, so one is not made of the other"
        )
    tokens = reference.codec.text(task.text)
    tally = Tally()
    window = min(WINDOW, reference.facts.context, candidate.facts.context)
    for start in range(0, len(tokens), window):
        part = tokens[start : start + window]
        reference.forget(0)
        candidate.forget(0)
        for at in range(0, len(part) - 1, task.reference.outputs):
            # The last token of a window predicts one that is not in it.
            chunk = part[at : min(at + task.reference.outputs, len(part) - 1)]
            rows = [_predict(engine, chunk, at) for engine in (reference, candidate)]
            skip = min(len(chunk), max(0, UNJUDGED - at))
            following = np.asarray(part[at + 1 + skip : at + 1 + len(chunk)], np.int64)
            if len(following):
                tally.add(rows[0][skip:], rows[1][skip:], following)
    return tally.judged()


def _predict(engine: LlamaEngine, tokens: list[int], position: int) -> Rows:
    engine.batch.clear()
    for offset, token in enumerate(tokens):
        engine.batch.add(0, [token], position + offset, due=True)
    engine.decode()
    return engine.logits()


if __name__ == "__main__":
    main()
