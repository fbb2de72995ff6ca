"""What `rayhost tune` chose, put in where a profile leaves it open. `serve` calls it.

Invariant: whatever a profile says itself is served as it says. A `sha256` pins the very file, so it
rules out another file too.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from rayhost.baseline.calibration import Calibrations, Settings, Tuned
from rayhost.baseline.records import Baseline
from rayhost.models.store import Store, StoredModel
from rayhost.profile import ModelProfile


@dataclass(frozen=True, slots=True)
class Choice:
    """The file and the settings to serve; `advice` is one line where tuning never took place."""

    path: Path
    settings: Settings
    advice: str | None = None


def calibrated(
    model: ModelProfile, stored: StoredModel, store: Store, records: Calibrations
) -> Choice:
    """Return what to serve a model with on this host."""
    tuned = records.tuned(stored)
    if tuned is None or not tuned.applied:
        baseline = records.baseline(stored)
        return as_profiled(
            model, Choice(stored.path, Settings(), advice(stored.name, tuned, baseline))
        )
    if tuned.variant is None:
        return as_profiled(model, Choice(stored.path, tuned.settings))
    if model.sha256 is not None:
        return as_profiled(model, Choice(stored.path, Settings()))
    variant = store.variant(stored.name, tuned.variant)
    if variant is None:
        gone = f"the tuned file of {stored.name} is gone; run: rayhost tune {stored.name}"
        return as_profiled(model, Choice(stored.path, Settings(), gone))
    return as_profiled(model, Choice(variant, tuned.settings))


def advice(name: str, tried: Tuned | None, baseline: Baseline | None) -> str | None:
    """Say that a model was never tuned on this host, and what is measured of its worth.

    None where a dry run found nothing better than what is served.
    """
    if tried is not None and tried.gain <= 1:
        return None  # tuning was tried, and there is nothing to win
    if tried is not None:
        worth = f"a dry run measured {tried.gain:.2f} times as good for {tried.goal}"
    elif baseline and (alone := baseline.models[0].find("generate", 1)):
        share = alone.tokens_s.median / baseline.models[0].limit_tokens_s
        worth = f"`rayhost bench` measured {share:.0%} of what memory allows one sequence"
    else:
        worth = "with --dry-run it only measures what that is worth"
    return f"{name} was never tuned on this machine: run `rayhost tune {name}`; {worth}"


def as_profiled(model: ModelProfile, choice: Choice) -> Choice:
    """Return the choice with the profile's own settings over it; threads None are the usual."""
    settings = choice.settings
    given_cpus = model.threads != "auto" or model.cpus != "auto"
    chosen = msgspec.structs.replace(
        settings,
        threads=None if given_cpus else settings.threads,
        kv_type=settings.kv_type if model.kv.type == "auto" else model.kv.type,
        kv_layout=settings.kv_layout if model.kv.layout == "auto" else model.kv.layout,
    )
    if model.reproducible:
        # The one combination whose sums do not depend on what is computed beside them, measured
        # alone, in chunks, resumed and among 8, up to 1,405 tokens (docs/architecture.md).
        chosen = msgspec.structs.replace(chosen, kv_type="q8_0", kv_layout="split")
    if chosen.kv_type != "f16" and not chosen.flash:  # llama.cpp refuses the pair
        chosen = msgspec.structs.replace(chosen, flash_attention=None)
    return replace(choice, settings=chosen)
