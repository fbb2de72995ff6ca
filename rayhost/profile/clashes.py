"""What is wrong between the fields of a profile, though each is valid alone. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec

from rayhost import strict_json
from rayhost.profile.model import ModelProfile


def clashes(value: Any) -> Iterator[str]:
    """Yield what is wrong between fields. The value may have any shape: each part is looked at."""
    models = value.get("models") if isinstance(value, dict) else None
    taken: dict[str, str] = {}
    for index, model in enumerate(models if isinstance(models, list) else ()):
        if isinstance(model, dict):
            yield from _name_clashes(model, f"models[{index}]", taken)
            yield from _batch_clash(model, f"models[{index}]")
            yield from _reproducible_clash(model, f"models[{index}]")
            yield from _fallback_clash(model, f"models[{index}]", models or [])


def _name_clashes(model: dict[str, Any], path: str, taken: dict[str, str]) -> Iterator[str]:
    aliases = model.get("aliases")
    names = [(f"{path}.name", model.get("name"))]
    for index, alias in enumerate(aliases if isinstance(aliases, list) else ()):
        names.append((f"{path}.aliases[{index}]", alias))
    for here, name in names:
        if isinstance(name, str) and taken.setdefault(name, here) != here:
            yield (
                f"{here}: {strict_json.shown(name)} is already {taken[name]}; "
                "expected a name of its own"
            )


def _reproducible_clash(model: dict[str, Any], path: str) -> Iterator[str]:
    kv = model.get("kv")
    if model.get("reproducible") is not True or not isinstance(kv, dict):
        return
    for field, needed in (("type", "q8_0"), ("layout", "split")):
        given = kv.get(field, "auto")
        if given not in ("auto", needed):
            yield (
                f"{path}.kv.{field}: {strict_json.shown(given)} is not reproducible; "
                f'expected "{needed}" or "auto"'
            )


def _fallback_clash(model: dict[str, Any], path: str, models: list[Any]) -> Iterator[str]:
    """Whoever answers for another is there to answer: it has no fallback of its own."""
    fallback = model.get("fallback")
    others = [one for one in models if isinstance(one, dict) and one is not model]
    lasting = [one["name"] for one in others if one.get("fallback") is None and "name" in one]
    if isinstance(fallback, str) and fallback not in lasting:
        names = ", ".join(strict_json.shown(name) for name in lasting) or "another one"
        yield (
            f"{path}.fallback: {strict_json.shown(fallback)} is no other model of this profile "
            f"without a fallback of its own; expected {names}"
        )


def _batch_clash(model: dict[str, Any], path: str) -> Iterator[str]:
    # Every sequence being decoded needs a place in the step.
    field = {field.name: field for field in msgspec.structs.fields(ModelProfile)}
    batch = model.get("batch", field["batch"].default)
    concurrency = model.get("concurrency", field["concurrency"].default)
    # With either of them left to "auto", it follows the other.
    if isinstance(batch, int) and isinstance(concurrency, int) and 1 <= batch < concurrency <= 64:
        yield (
            f"{path}.batch: {strict_json.shown(batch)} is not valid; "
            f"expected at least the concurrency, {concurrency}"
        )
