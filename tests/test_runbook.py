"""The runbook says only what is true: its verbs, files, metrics, codes and log events exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from rayhost.cli.main import app
from rayhost.metrics_page import page

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "runbook.md").read_text()
SOURCES = "".join(path.read_text() for path in (ROOT / "rayhost").rglob("*.py"))


def found(pattern: str) -> list[str]:
    return sorted(set(re.findall(pattern, TEXT)))


@pytest.mark.parametrize("verb", found(r"`rayhost ([a-z]+)[ `]"))
def test_its_verbs_exist(verb: str) -> None:
    verbs = get_command(app)
    assert verb in getattr(verbs, "commands", {})


@pytest.mark.parametrize("name", found(r"`([a-z]+/[a-z_/]+(?:\.py|/))`"))
def test_its_files_exist(name: str) -> None:
    assert (ROOT / "rayhost" / name).exists()


@pytest.mark.parametrize("metric", found(r"`(rayhost_[a-z_]+)`"))
def test_its_metrics_exist(metric: str) -> None:
    assert f"`{metric}`" in page()


@pytest.mark.parametrize("event", found(r"RAYHOST_EVENT='?([a-z ]+?)'? ?[`)-]"))
def test_its_log_events_are_said(event: str) -> None:
    assert f'"{event}"' in SOURCES


@pytest.mark.parametrize(
    "code", [*found(r"`([a-z]+_[a-z]+)`(?= \(|,|\.)"), "shed", "overloaded", "draining"]
)
def test_its_codes_are_answered(code: str) -> None:
    assert f'"{code}"' in SOURCES or f"{code}:" in SOURCES
