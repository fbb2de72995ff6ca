"""Serves a model with the xllamacpp package: `python xllamacpp_server.py SETTINGS`, JSON.

Run by the Python of a venv that has xllamacpp and nothing of this project. Prints where it listens
and serves until SIGTERM.
"""

import importlib
import json
import signal
import sys
from typing import Any


def parameters(xllamacpp: Any, settings: dict[str, Any]) -> Any:
    """Return CommonParams with what `bench.servers.llama_flags` says, its defaults otherwise."""
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = {settings["name"]}
    params.n_ctx = settings["context"] * settings["slots"]
    params.n_parallel = settings["slots"]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    flash = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[settings["peer_flash"]]
    params.flash_attn_type = getattr(
        xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}"
    )
    params.kv_unified = settings["kv_layout"] == "unified"
    params.n_gpu_layers = 0
    params.port = 0
    return params


def main() -> None:
    """Serve until told to stop."""
    # By name: type checkers run where it is not installed.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    # Blocked before the server's threads start, so that every one of them leaves it to sigwait.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = xllamacpp.Server(parameters(xllamacpp, json.loads(sys.argv[1])))
    sys.stdout.write(f"listening on {server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    main()
