"""The command: what runs, what is refused, and a whole comparison of tiny hosts."""

from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from bench import compare, measure, peer, servers
from bench.bottleneck import Bottleneck, Limits
from bench.load import Plan
from bench.machine import physical_cores
from bench.measure import Bench
from bench.peer import Peer
from bench.report import Case
from bench.servers import Launch, ServerFailed, Settings
from bench.traffic import WORKLOADS, Call, Lane, Traffic

PEER = Peer("llama-server", Path("/none/llama-server"), "made up", "AVX2 = 1")


def test_without_a_choice_the_selection_runs() -> None:
    assert compare.chosen([], [], everything=False) == list(compare.SELECTION)


def test_a_choice_of_one_kind_leaves_the_other_whole() -> None:
    assert compare.chosen(["same"], [], everything=False) == [
        Case("same", 1),
        Case("same", 4),
        Case("same", 8),
        Case("same", 16),
    ]
    assert len(compare.chosen([], [2], everything=False)) == len(WORKLOADS)
    assert len(compare.chosen([], [], everything=True)) == 4 * len(WORKLOADS)


@pytest.mark.parametrize(("clients", "rounds"), [(1, 6), (4, 4), (8, 2), (16, 1), (64, 1)])
def test_each_client_sends_some_calls(clients: int, rounds: int) -> None:
    assert compare.rounds_of(Case("unique", clients)) == rounds


def invoke(arguments: list[str]) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(compare.main)
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output


def test_an_unknown_workload_is_named_with_those_there_are() -> None:
    status, output = invoke(["--workload", "nonsense"])
    assert status == 2
    assert "nonsense" in output
    assert "overload" in output


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (Bottleneck("it took a core"), 3, "refusing to report: it took a core"),
        (ServerFailed("it died"), 1, "bench: it died"),
    ],
)
def test_a_spoiled_comparison_writes_nothing_and_says_why(
    error: Exception,
    status: int,
    told: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(peer, "llama_server", lambda *_: PEER)
    monkeypatch.setattr(Bench, "compare", fail)
    results = tmp_path / "results"
    found, output = invoke(["--model", str(tiny_model), "--results", str(results)])
    assert (found, told in output) == (status, True)
    assert list(results.iterdir()) == []


@pytest.mark.heavy
@pytest.mark.parametrize("workload", ["unique", "overload"])
def test_a_comparison_of_a_host_with_itself(
    workload: str, tiny_model: Path, tmp_path: Path
) -> None:
    # Whatever else runs on this machine: what is tested here is no measurement.
    lenient = Limits(cpu_share=100.0, lag_p99_ms=60_000.0)
    settings = Settings(str(tiny_model), "tiny", 512, 4, physical_cores(), "split")
    launch = servers.rayhost(settings, tmp_path)
    twin = msgspec.structs.replace(launch, name="twin")
    said: list[str] = []
    runs, overload = Bench((launch, twin), "tiny", tmp_path, lenient, said.append).compare(
        Case(workload, 4), range(1, 3), seed=1, rounds=1
    )
    assert [(run.pair, run.server) for run in runs] == [
        (1, "rayhost"),
        (1, "twin"),
        (2, "rayhost"),
        (2, "twin"),
    ]
    assert len(said) == (6 if overload else 4)  # two more to calibrate
    assert (overload is not None) == (workload == "overload")
    for run in runs:
        one = run.figures
        assert one.calls == (16 if overload else 4)
        assert one.peak_rss_mib > one.peak_pss_mib > 10
        assert set(one.errors) <= ({"late"} if overload else set())
        assert one.generated_tokens == 48 * (one.calls - one.failed)
    if workload == "unique":  # the same bytes to both, others in the next pair
        prompts = [run.figures.prompt_tokens for run in runs]
        assert prompts[0] == prompts[1]
        assert prompts[2] == prompts[3]
        assert prompts[0] != prompts[2]


def test_a_run_that_the_harness_disturbed_is_repeated_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    def disturbed(self: Bench, launch: Launch, *_: object) -> None:
        attempts.append(launch.name)
        raise Bottleneck("it ran late")

    monkeypatch.setattr(Bench, "_try", disturbed)
    launch = Launch("rayhost", (), "", "")
    said: list[str] = []
    bench = Bench((launch, launch), "tiny", tmp_path, Limits(), said.append)
    with pytest.raises(Bottleneck):
        bench.compare(Case("unique", 1), [1], seed=1, rounds=1)
    assert attempts == ["rayhost"] * 3
    assert said == ["thrown away and repeated: it ran late"] * 2


def test_a_generator_that_finds_no_server_reports_each_call() -> None:
    call = Call(({"role": "user", "content": "Hello"},), 4)
    plan = Plan("http://127.0.0.1:1", "tiny", Traffic((Lane((call, call)),)), 5.0)
    assert [one.error for one in measure.generate(plan).outcomes] == ["no connection"] * 2


def test_a_warm_up_that_fails_is_told() -> None:
    call = Call(({"role": "user", "content": "Hello"},), 4)
    plan = Plan("http://127.0.0.1:1", "tiny", Traffic((), warm_up=(call,)), 5.0)
    with pytest.raises(ServerFailed, match="warm-up failed: no connection"):
        measure.generate(plan)
