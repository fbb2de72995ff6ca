"""API keys: a file of digests, who each belongs to and on what terms, read anew when it changes.

Invariant: no file holds a key itself, and once there was a file of keys, readable or not, nobody
gets in without one, whatever becomes of the file. `rayhost key` writes it, `http.auth` asks it.
"""

import base64
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog
from msgspec import Meta

from rayhost.errors import RayhostError

_PREFIX = "rh"
_SHAPE = re.compile(rf"{_PREFIX}-([a-z0-9]{{8}})-([A-Za-z0-9_-]{{43}})")
_NOBODY = bytes(32)  # compared with where there is no such key, so that both take as long

_log = structlog.get_logger("rayhost.keys")


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key as the file has it. A limit of None is none."""

    id: Annotated[str, Meta(pattern="^[a-z0-9]{8}$")]
    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    # Plain SHA-256: a slow hash is for what people choose. Of 256 random bits nobody tries them
    # all, and a slow one would only cost the box its time at every request.
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    ceiling: Literal["high", "normal", "low", "batch"] = "normal"  # highest priority
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    concurrency: Annotated[int, Meta(ge=1)] | None = None  # requests at once
    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None  # prompt and answer


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...]


def create(name: str) -> tuple[Key, str]:
    """Return a new key and its secret, of which the key knows only the digest."""
    ident = base64.b32encode(secrets.token_bytes(5)).decode().lower()
    secret = f"{_PREFIX}-{ident}-{secrets.token_urlsafe(32)}"
    return Key(id=ident, name=name, sha256=hashlib.sha256(secret.encode()).hexdigest()), secret


def read(path: Path) -> tuple[Key, ...] | None:
    """Return the keys of a file, None where there is none. Raises RayhostError for a bad one."""
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RayhostError(f"{path}: not a file of API keys: {error}") from None
    if len({key.id for key in keys}) < len(keys) or len({key.name for key in keys}) < len(keys):
        raise RayhostError(f"{path}: two keys have the same id or name")
    return keys


def write(path: Path, keys: tuple[Key, ...]) -> None:
    """Replace the file by one with these keys, which only its owner may read if it is new.

    Raises RayhostError, for a key that is not valid too.
    """
    text = msgspec.json.format(msgspec.json.encode(_File(keys)), indent=2) + b"\n"
    try:
        msgspec.json.decode(text, type=_File)  # a struct is not checked when it is made
        _replace(path, text)
    except msgspec.ValidationError as error:
        raise RayhostError(f"not a valid key: {error}") from None
    except OSError as error:
        raise RayhostError(f"{path}: cannot be written: {error.strerror}") from None


def _replace(path: Path, text: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if path.exists():  # who could read it can go on: a service whose keys root writes
            about = path.stat()
            os.fchown(descriptor, about.st_uid, about.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(about.st_mode))
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)


@contextmanager
def changing(path: Path) -> Iterator[tuple[Key, ...]]:
    """Yield the keys of a file that nobody else changes meanwhile; `write` is then allowed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RayhostError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read(path) or ()
    finally:
        os.close(lock)


class KeyRing:
    """The keys of a file, as it is now; of one that cannot be read, as it was, or none."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one. Raises RayhostError for a bad one."""
        self._path = path
        self._seen = self._stamp()  # of the file as it was read
        self._keys = _by_id(read(path))
        self._fault = ""  # of the file as it is, told already

    @property
    def configured(self) -> bool:
        """Whether a key is needed at all."""
        self._refresh()
        return self._keys is not None

    def find(self, secret: str) -> Key | None:
        """Return the key of that secret, None if it is none of ours."""
        self._refresh()
        shape = _SHAPE.fullmatch(secret)
        key = (self._keys or {}).get(shape[1]) if shape else None
        expected = bytes.fromhex(key.sha256) if key else _NOBODY
        given = hashlib.sha256(secret.encode(errors="replace")).digest()
        return key if hmac.compare_digest(given, expected) else None

    def _refresh(self) -> None:
        stamp = self._stamp()  # 2 microseconds
        if stamp == self._seen:
            return
        try:
            keys = read(self._path)
        except RayhostError as error:
            # The stamp is not taken for seen: what made it fail need not be the file (no
            # descriptor was free), and a key may have been revoked in it.
            self._keys = self._keys or {}
            self._tell(str(error))
            return
        if keys is None:
            if self._keys is not None:
                self._tell(f"{self._path} is gone")
            return
        self._seen, self._fault = stamp, ""
        self._keys = _by_id(keys)
        _log.info("keys read", count=len(keys))

    def _tell(self, fault: str) -> None:
        if fault != self._fault:
            _log.error("keys not read: those of before stay, and no others get in", reason=fault)
        self._fault = fault

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what differs once the file, or whether it can be read, has changed."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:  # of a folder on the way: nobody can say that there is no file
            return (error.errno or 0,)
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _by_id(keys: tuple[Key, ...] | None) -> dict[str, Key] | None:
    return None if keys is None else {key.id: key for key in keys}
