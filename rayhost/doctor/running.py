"""Whether the host that runs is the one that the profile's file describes, and is well. Pure."""

from collections.abc import Iterator, Mapping

from rayhost.doctor.finding import Finding
from rayhost.doctor.units import INSTALL, WHERE
from rayhost.front.state import HostState

_RELOAD = "rayhost reload"
_RESTART = "systemctl restart rayhost"


def check_drift(
    state: HostState, digests: Mapping[str, str], port: int, version: str, *, service: bool
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
            _RESTART if service else "",
            "" if service else "start it anew",
        )
    if port and not state.url.endswith(f":{port}"):
        yield Finding(
            "drift",
            "warning",
            f"the host is at {state.url}, and the profile says port {port}",
            "an address changes only with a restart",
            INSTALL if service else "",
            f"{WHERE}; or name this host's profile with --profile"
            if service
            else "start it anew; or name its profile with --profile",
        )
    if state.version != version:
        yield Finding(
            "drift",
            "warning",
            f"version {state.version} runs, and {version} is installed",
            "an upgrade takes over with a restart",
            _RESTART if service else "",
            "" if service else "start it anew",
        )


def check_health(state: HostState) -> Iterator[Finding]:
    """Yield what a running host cannot do now, and why."""
    if state.memory.rungs:
        yield Finding(
            "memory",
            "warning",
            f"given up for memory: {', '.join(state.memory.rungs)} ({state.memory.reason})",
            "clients get less than the profile says",
            "rayhost top --once",
            "`rayhost plan` says what of the profile would fit",
        )
    for model in state.models:
        if model.state not in ("ready", "loading", "starting", "unloaded"):
            yield Finding(
                "model",
                "error" if model.state == "failed" else "warning",
                f"model {model.name} is {model.state}: {model.reason}",
                "its requests are refused, or wait",
                _RELOAD,
                "which tries a failed model again; the log says more: journalctl -u rayhost",
            )


def check_absent(*, units: bool) -> Iterator[Finding]:
    """Yield it if the service is installed and no host runs."""
    if units:
        yield Finding(
            "service",
            "error",
            "rayhost is installed as a service, and no host answers",
            "clients wait in systemd's socket",
            "systemctl restart rayhost",
            "why it ended: journalctl -u rayhost",
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
