"""Whether the host that runs is the one that the profile's file describes, and is well. Pure."""

from collections.abc import Collection, Iterator

from rayhost.doctor.finding import Finding
from rayhost.front.state import HostState

_RELOAD = "rayhost reload"


def check_drift(
    state: HostState, models: Collection[str], port: int, version: str
) -> Iterator[Finding]:
    """Yield where a running host differs from a profile with these models."""
    served = {model.name for model in state.models}
    differing = [f"{name} is not served" for name in models if name not in served]
    differing += [f"{name} is served still" for name in sorted(served) if name not in models]
    if differing:
        yield Finding(
            "drift",
            "warning",
            f"the profile was changed and not applied: {', '.join(differing)}",
            "the next restart brings what nobody expects then",
            _RELOAD,
        )
    if port and not state.url.endswith(f":{port}"):
        yield Finding(
            "drift",
            "warning",
            f"the host is at {state.url}, and the profile says port {port}",
            "an address changes only with a restart",
            "run install.sh again, or restart it; or name its profile with --profile",
        )
    if state.version != version:
        yield Finding(
            "drift",
            "warning",
            f"version {state.version} runs, and {version} is installed",
            "an upgrade takes over with a restart",
            "systemctl restart rayhost",
        )


def check_health(state: HostState) -> Iterator[Finding]:
    """Yield what a running host cannot do now, and why."""
    if state.memory.rungs:
        yield Finding(
            "memory",
            "warning",
            f"given up for memory: {', '.join(state.memory.rungs)} ({state.memory.reason})",
            "clients get less than the profile says",
            "rayhost top; rayhost plan PROFILE says what would fit",
        )
    for model in state.models:
        if model.state not in ("ready", "loading", "starting", "unloaded"):
            yield Finding(
                "model",
                "error" if model.state == "failed" else "warning",
                f"model {model.name} is {model.state}: {model.reason}",
                "its requests are refused, or wait",
                f"journalctl -u rayhost, then {_RELOAD}, which tries a failed model again",
            )


def check_absent(*, units: bool) -> Iterator[Finding]:
    """Yield it if the service is installed and no host runs."""
    if units:
        yield Finding(
            "service",
            "error",
            "rayhost is installed as a service, and no host answers",
            "clients wait in systemd's socket",
            "systemctl restart rayhost; journalctl -u rayhost says why it ended",
        )
