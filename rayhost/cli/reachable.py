"""Running hosts that can be asked from here: what one says of itself, and which serves a profile.

Reads the admin sockets of this user; root also sees the service's.
"""

from pathlib import Path

import msgspec

from rayhost import admin_socket
from rayhost.errors import RayhostError
from rayhost.front.state import HostState
from rayhost.profile import Profile


def state_of(path: Path, timeout_s: float = admin_socket.ANSWER_S) -> HostState:
    """Return the state of the host at a socket. Raises RayhostError when none can be had."""
    status, body = admin_socket.ask(path, "GET", "/admin/state", timeout_s)
    if status != 200:
        raise RayhostError(f"{path}: the host answered with status {status}: {body[:200]!r}")
    try:
        return msgspec.json.decode(body, type=HostState)
    except msgspec.DecodeError as error:
        raise RayhostError(f"{path}: a host of another version: {error}") from None


def host_of(profile: Profile, folder: Path) -> HostState | None:
    """Return the state of the host that serves a profile, perhaps as it was before an edit.

    `folder` is the profile's. The host is the one at the socket that the profile names, else one
    that serves models of the same names, or some of them at the profile's port.
    """
    named = profile.listen.admin_socket
    for path in [folder / named] if named else admin_socket.running():
        try:
            state = state_of(path, admin_socket.TIMEOUT_S)
        except RayhostError:  # gone, of another version, or busy with going down
            continue
        if named or _serves(state, profile):
            return state
    return None


def _serves(state: HostState, profile: Profile) -> bool:
    wanted = {model.name for model in profile.models}
    served = {model.name for model in state.models}
    at_its_port = state.url.endswith(f":{profile.listen.port}")
    return wanted == served or (at_its_port and bool(wanted & served))
