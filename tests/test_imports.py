"""What a process loads: the front stays small because it loads neither the engine nor numpy."""

import subprocess
import sys

import pytest


def loaded_after(statement: str, suspects: set[str]) -> set[str]:
    """Which of the suspects a fresh interpreter holds after a statement."""
    program = f"import sys; {statement}; print(*{suspects!r} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "rayhost.cli.main",
        "rayhost.cli.service",
        "rayhost.front.request",
        "rayhost.http.app",
        "rayhost.profile",
    ],
)
def test_the_front_process_loads_no_engine(module: str) -> None:
    assert loaded_after(f"import {module}", {"llama_cpp", "numpy"}) == set()


def test_the_command_line_loads_no_library_of_its_verbs() -> None:
    libraries = {"huggingface_hub", "numpy", "prometheus_client", "psutil", "starlette", "uvicorn"}
    assert loaded_after("import rayhost.cli.main", libraries) == set()


def test_traces_are_loaded_only_where_they_are_on() -> None:
    assert loaded_after("import rayhost.cli.service", {"opentelemetry"}) == set()


def test_the_probe_sees_what_is_loaded() -> None:
    assert loaded_after("import msgspec", {"msgspec", "numpy"}) == {"msgspec"}
