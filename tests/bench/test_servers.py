"""Both servers get the same settings; one that fails to start says why, and none is left behind."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench import servers
from bench.machine import CHECKOUT
from bench.servers import Launch, ServerFailed, Settings, running
from rayhost import profile

SETTINGS = Settings("/models/m.gguf", "m", 1024, 4, 3, "unified")

SERVER = """
import http.server, os, sys
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
if os.fork():
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


def launch(program: str) -> Launch:
    return Launch("fake", (sys.executable, "-c", program), r"listening on (http://\S+)", "/")


def test_rayhost_gets_the_settings_in_a_profile(tmp_path: Path) -> None:
    argv = servers.rayhost(SETTINGS, tmp_path).argv
    [model] = profile.load(Path(argv[argv.index("--profile") + 1])).models
    assert (model.name, model.source) == ("m", "file:/models/m.gguf")
    assert (model.context, model.concurrency, model.threads) == (1024, 4, 3)
    assert (model.kv.type, model.kv.layout) == ("f16", "unified")


def test_llama_server_gets_the_same_settings() -> None:
    flags = servers.llama_flags(SETTINGS)
    given = dict(itertools.pairwise(flags))
    assert given["--ctx-size"] == "4096"  # of all slots together
    assert (given["--parallel"], given["--threads"], given["--threads-batch"]) == ("4", "3", "3")
    assert (given["--flash-attn"], given["--cache-type-k"]) == ("auto", "f16")
    assert "--kv-unified" in flags


def test_a_server_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    with running(launch(SERVER), tmp_path / "log") as server:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        assert len(family) == 2
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


HARNESS = """
import pathlib, signal, sys
from bench.machine import CHECKOUT
from bench.servers import Launch, running
launch = Launch("fake", (sys.executable, "-c", sys.argv[1]), r"listening on (http://\\S+)", "/")
with running(launch, pathlib.Path(sys.argv[2])) as server:
    print(server.pid, flush=True)
    signal.pause()
"""


def test_no_server_outlives_a_harness_that_was_killed(tmp_path: Path) -> None:
    alone = SERVER.replace("if os.fork():", "if True:")
    argv = [sys.executable, "-c", HARNESS, alone, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as harness:
        assert harness.stdout is not None
        server = psutil.Process(int(harness.stdout.readline()))
        harness.kill()
    _, alive = psutil.wait_procs([server], timeout=10)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    program = "raise SystemExit('no such model')"
    with (
        pytest.raises(ServerFailed, match=r"fake ended with status 1: no such model"),
        running(launch(program), tmp_path / "log"),
    ):
        pass


def test_a_server_that_dies_under_load_is_no_result(tmp_path: Path) -> None:
    def die_in_use() -> None:
        with running(launch(SERVER), tmp_path / "log") as server:
            os.kill(server.pid, signal.SIGKILL)
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)  # leaves the status to read

    with pytest.raises(ServerFailed, match="ended with status -9"):
        die_in_use()
