"""Facts of the machine, as they go into a result and its file name."""

import pytest

from bench import machine


@pytest.mark.parametrize(
    ("cpu", "slug"),
    [
        ("Intel(R) Xeon(R) Processor", "intel-xeon-processor"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "intel-xeon-e5-2680-v4"),
        ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-64-core-processor"),
        ("aarch64", "aarch64"),
        ("///", "unknown"),
    ],
)
def test_a_cpu_becomes_part_of_a_file_name(cpu: str, slug: str) -> None:
    assert machine.slug(cpu) == slug


def test_the_model_name_of_the_first_cpu_is_found() -> None:
    text = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t: a b\nmodel name\t: another\n"
    assert machine.cpu_model(text) == "A CPU @ 2 GHz"
    assert machine.cpu_model("processor\t: 0\nBogoMIPS\t: 50\n") == ""


def test_variables_that_move_threads_are_noted_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("A_SECRET", "x")
    noted = machine.read().environment
    assert noted["OMP_WAIT_POLICY"] == "passive"
    assert "A_SECRET" not in noted
