"""Children that answer, refuse, die, hang, or babble: real processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rayhost.baseline import child
from rayhost.baseline.child import ChildFailed
from rayhost.threads import ENVIRONMENT

PROGRAM = """
import json, os, signal, sys, time
task = json.loads(sys.argv[1])["do"]
if task == "parent":
    from rayhost.baseline import child
    child.begin()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)
say("part", number=1)
if task == "refuse": say("no", reason="will not")
if task == "crash": os.abort()
if task == "complain": sys.exit("the last word")
if task == "babble": print("{", flush=True)
if task == "hang": time.sleep(60)
if task == "pid": say("part", number=os.getpid()); time.sleep(60)
if task == "threads": say("part", number=int(os.environ["OPENBLAS_NUM_THREADS"]))
if task == "spin": say("part", number=int(os.environ["GOMP_SPINCOUNT"]))
if task != "early": say("end")
"""


class Order(msgspec.Struct, frozen=True):
    do: str


class Part(msgspec.Struct, frozen=True, tag="part"):
    number: int


class No(msgspec.Struct, frozen=True, tag="no"):
    reason: str


class End(msgspec.Struct, frozen=True, tag="end"):
    pass


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "odd_child.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    return "odd_child"


def ask(module: str, do: str, timeout_s: float = 30.0) -> list[Any]:
    answers: msgspec.json.Decoder[Part | No | End] = msgspec.json.Decoder(Part | No | End)
    return list(child.run(module, Order(do), answers, last=End, refusal=No, timeout_s=timeout_s))


def test_answers_come_in_order(module: str) -> None:
    assert ask(module, "work") == [Part(1), End()]


def test_a_childs_threads_behave_as_a_workers(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert ask(module, "threads") == [Part(1), Part(1), End()]
    assert ask(module, "spin") == [Part(1), Part(2000), End()]
    monkeypatch.setenv("GOMP_SPINCOUNT", "300")  # the operator's own
    assert ask(module, "spin") == [Part(1), Part(300), End()]


@pytest.mark.parametrize(
    ("do", "told"),
    [
        ("refuse", "^will not$"),
        ("crash", "odd_child ended early: killed by SIGABRT"),
        ("complain", "exit status 1: the last word"),
        ("early", "exit status 0$"),
        ("babble", "odd_child answered nonsense"),
        ("parent", "killed by SIGINT"),
    ],
)
def test_a_child_that_fails_is_told_of(module: str, do: str, told: str) -> None:
    with pytest.raises(ChildFailed, match=told):
        ask(module, do)


def test_a_child_that_hangs_is_killed(module: str) -> None:
    with pytest.raises(ChildFailed, match="not done after 2 s"):
        ask(module, "hang", timeout_s=2.0)


def test_a_child_whose_parent_is_gone_before_it_begins_does_nothing() -> None:
    program = "from rayhost.baseline import child; print('began', child.begin())"
    nobody = str(os.getppid())  # not the parent of what is started here
    done = subprocess.run(
        [sys.executable, "-c", program, "{}", nobody], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "is gone" in done.stderr


def test_a_caller_that_leaves_early_leaves_no_child(module: str) -> None:
    answers: msgspec.json.Decoder[Part | No | End] = msgspec.json.Decoder(Part | No | End)
    running = child.run(module, Order("pid"), answers, last=End, refusal=No, timeout_s=60)
    first, second = next(running), next(running)
    assert isinstance(second, Part), first
    pid = second.number
    assert Path(f"/proc/{pid}").exists()
    running.close()
    assert not Path(f"/proc/{pid}").exists()
