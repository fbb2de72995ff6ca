"""Whether the host that runs is the one that the profile's file describes, and is well. Pure."""

from collections.abc import Iterator, Mapping

from rayhost.doctor.finding import Finding
from rayhost.front.state import HostState

_RELOAD = "rayhost reload"


def check_drift(
    state: HostState, digests: Mapping[str, str], port: int, version: str
) -> Iterator[Finding]:
    """Yield where a running host differs from a profile with these digests (`profile.digests`)."""
    if differing := list(_differing(state.profile.digests, digests)):
        yield Finding(
            "drift",
            "warning",
            f"the profile was changed and not applied: {', '.join(differing)}",
            "the next restart brings what nobody expects then",
            _RELOAD,
        )
    if state.profile.need_restart:
        yield Finding(
            "drift",
            "warning",
            f"not in force before a restart: {', '.join(state.profile.need_restart)}",
            "the host runs with what was there when it started",
            "systemctl restart rayhost",
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


def _differing(running: Mapping[str, str], file: Mapping[str, str]) -> Iterator[str]:
    """Yield what differs. A part that one of the two versions does not know is left out."""
    models = "models."
    if not running:  # a host from before digests: its version is told
        return
    for name in file:
        if name.startswith(models) and name not in running:
            yield f"{name.removeprefix(models)} is not served"
    for name, digest in running.items():
        if name in file and file[name] != digest:
            yield name
        elif name.startswith(models) and name not in file:
            yield f"{name.removeprefix(models)} is served still"
