"""The models on this machine's disk: pulled once, checked, found again by name.

A model is visible exactly when its manifest is there, and the manifest is written last, so a pull
killed at any byte leaves nothing that loads. Any process may read; pulls lock each other out.

    ROOT/models/NAME/manifest.json   what is stored, from where
    ROOT/models/NAME/HASH.gguf       the bytes
    ROOT/models/NAME/variants/       the same model in other weights, made on this machine
    ROOT/partial/NAME/               a pull that is going on, or one that died
    ROOT/locks/NAME                  held by the pull
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rayhost.errors import RayhostError
from rayhost.models import catalog, gguf
from rayhost.models.durable import (
    commit_bytes,
    commit_file,
    exclusive,
    exclusive_if_free,
    sha256_of,
)
from rayhost.models.fetch import Progress, Workplace, fetch, quiet
from rayhost.models.sources import (
    FileSource,
    HubSource,
    PypiSource,
    check_name,
    parse,
)

MARGIN = 64 << 20  # bytes of disk that a pull leaves free for everyone else


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model file that can be loaded now. `sha256` is None for a `file:` nobody gave one for."""

    name: str
    path: Path
    source: str
    sha256: str | None
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the store knows of a model. Size and mtime tell a changed file without hashing it."""

    file: str
    source: str
    sha256: str
    size_bytes: int
    mtime_ns: int


def default_root() -> Path:
    """`$RAYHOST_HOME`, else `$XDG_DATA_HOME/rayhost`, else `~/.local/share/rayhost`."""
    if home := os.environ.get("RAYHOST_HOME"):
        return Path(home).expanduser().absolute()
    shared = Path(os.environ.get("XDG_DATA_HOME", ""))
    # The XDG rules say to ignore a relative path.
    return (shared if shared.is_absolute() else Path.home() / ".local" / "share") / "rayhost"


def free_bytes(folder: Path) -> int:
    """Bytes that a user who is not root may still write to the disk of `folder`."""
    return shutil.disk_usage(folder).free


class Store:
    """One store on disk. Creates folders only when something is pulled."""

    def __init__(self, root: Path, *, free_bytes: Callable[[Path], int] = free_bytes) -> None:
        self.root = root
        self._models = root / "models"
        self._partial = root / "partial"
        self._free_bytes = free_bytes

    def names(self) -> tuple[str, ...]:
        """Every stored model's name, in order, whether its file is still good or not."""
        return tuple(sorted(path.parent.name for path in self._models.glob("*/manifest.json")))

    def list(self) -> tuple[StoredModel, ...]:
        """Every stored model, by name. Raises RayhostError at the first that `find` refuses."""
        return tuple(model for name in self.names() if (model := self.find(name)))

    def find(self, name: str) -> StoredModel | None:
        """Return the stored model, or None if it was never pulled.

        Costs a stat, not a hash. Raises RayhostError if its file is gone or has changed.
        """
        manifest = self.manifest(name)
        if manifest is None:
            return None
        path = self._models / name / manifest.file
        try:
            now = path.stat()
        except FileNotFoundError:
            raise RayhostError(f"{name}: {path} is gone; run: rayhost pull {name}") from None
        if (now.st_size, now.st_mtime_ns) != (manifest.size_bytes, manifest.mtime_ns):
            raise RayhostError(
                f"{name}: {path} has changed since it was pulled; run: rayhost pull {name}"
            )
        return StoredModel(name, path, manifest.source, manifest.sha256, manifest.size_bytes)

    def manifest(self, name: str) -> Manifest | None:
        """Return what is recorded of a model, without a look at its file.

        Raises RayhostError for a bad name and for a manifest that nobody here wrote.
        """
        path = self._models / check_name(name) / "manifest.json"
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise RayhostError(f"{name}: {path} is damaged ({error}); remove it") from error
        if not re.fullmatch(r"[0-9a-f]+\.gguf", manifest.file):
            raise RayhostError(f"{name}: {path} names a strange file {manifest.file!r}; remove it")
        return manifest

    def resolve(self, name: str, source: str, sha256: str | None, base: Path) -> StoredModel | None:
        """Return the model of a profile's entry, or None if it must be pulled first.

        A `file:` is used where it is, relative to `base`, and hashed only if `sha256` is given.
        Raises RayhostError for a bad source and for a file that is missing or not the right one.
        """
        parsed = parse(source)
        if isinstance(parsed, FileSource):
            return _in_place(name, parsed, sha256, base, quiet)
        found = self.find(name)
        if found is None or found.source != str(parsed):
            return None
        return found if sha256 in {None, found.sha256} else None

    def pull(
        self,
        name: str,
        source: str,
        sha256: str | None = None,
        progress: Progress = quiet,
    ) -> StoredModel:
        """Bring a model into the store and return it; what is there and hashes right stays.

        Waits for another pull of the same name and then uses what that one brought. Raises
        RayhostError; until it returns, an earlier model of that name stays as it was. What
        `progress` raises ends it, as `fetch.Stopped`. Call it from a thread that lives as long as
        the call: the download dies with that thread.
        """
        parsed = parse(source)
        check_name(name)
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise RayhostError(f"{name}: sha256 {sha256!r} is not 64 lower-case hex digits")
        if isinstance(parsed, FileSource):
            return _in_place(name, parsed, sha256, Path.cwd(), progress)
        try:
            with exclusive(self._lock(name), lambda: progress(0, None, "waiting")) as lock:
                self._sweep(name)
                kept = self._still_good(name, str(parsed), sha256, progress)
                if kept is not None:
                    return kept
                folder = self._folder_for(name, parsed)
                expected = catalog.SIZE_BY_SHA256.get(sha256 or "")
                work = Workplace(folder, lock, self._room_for(name), progress, expected)
                keep = isinstance(parsed, HubSource)  # to resume; pip can only start again
                try:
                    path = fetch(parsed, work)
                    keep = False
                    return self._commit(name, parsed, path, sha256, progress)
                finally:
                    if not keep:
                        shutil.rmtree(self._partial / name)
        except OSError as error:
            raise RayhostError(f"{name}: cannot be pulled: {error}") from error

    def remove(self, name: str) -> None:
        """Forget a model and free its disk. Raises RayhostError if it is not stored."""
        folder = self._models / check_name(name)
        with exclusive(self._lock(name), lambda: None):
            if not folder.is_dir():
                stored = ", ".join(self.names()) or "no model"
                raise RayhostError(f"{name}: not in the store, which has {stored}")
            (folder / "manifest.json").unlink(missing_ok=True)  # first: a half removal is invisible
            shutil.rmtree(folder)

    @contextmanager
    def workplace(self, name: str, room: int) -> Iterator[Path]:
        """Yield an empty folder for `room` bytes of files made of a model, removed afterwards.

        Raises RayhostError if somebody else has it, or the disk is too full. What a killed process
        leaves there goes with the next pull.
        """
        made_of = f"tune@{check_name(name)}"  # no model can have that name
        with exclusive_if_free(self._lock(made_of)) as free:
            if not free:
                raise RayhostError(f"{name}: is being tuned by another process")
            folder = self._partial / made_of
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                self._room_for(name)(room)
                yield folder
            finally:
                shutil.rmtree(folder)

    def keep_variant(self, name: str, path: Path) -> str:
        """Move a file made of a model beside it, in place of another variant; return its name."""
        folder = self._variants(name)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{_hash(path, quiet)[:16]}.gguf"
        commit_file(path, target)
        for old in folder.glob("*.gguf"):
            if old != target:
                old.unlink()  # a worker that has it mapped keeps it until it ends
        return target.name

    def variant(self, name: str, file: str) -> Path | None:
        """Return the variant of a model that `keep_variant` named, or None if it is gone."""
        path = self._variants(name) / file
        return path if re.fullmatch(r"[0-9a-f]+\.gguf", file) and path.is_file() else None

    def remove_variants(self, name: str) -> None:
        """Remove what `keep_variant` kept; nothing there is fine."""
        folder = self._variants(name)
        if folder.is_dir():
            shutil.rmtree(folder)

    def _variants(self, name: str) -> Path:
        return self._models / check_name(name) / "variants"

    def _lock(self, name: str) -> Path:
        return self.root / "locks" / name

    def _room_for(self, name: str) -> Callable[[int], None]:
        def room(needed: int) -> None:
            free = self._free_bytes(self.root)
            if needed + MARGIN > free:
                raise RayhostError(
                    f"{name}: needs {(needed + MARGIN) / 1e6:,.0f} MB of disk in {self.root}, "
                    f"where {free / 1e6:,.0f} MB are free"
                )

        return room

    def _sweep(self, mine: str) -> None:
        """Remove what dead pulls of other models left: a partial whose lock nobody holds."""
        for folder in self._partial.glob("*"):
            if folder.name == mine:
                continue
            with exclusive_if_free(self._lock(folder.name)) as free:
                if free:
                    shutil.rmtree(folder)

    def _folder_for(self, name: str, source: PypiSource | HubSource) -> Path:
        """An empty folder, unless a download from this very place can be resumed in it."""
        origin = hashlib.sha256(str(source).encode()).hexdigest()[:16]
        folder = self._partial / name / origin
        for other in (self._partial / name).glob("*"):
            if other != folder or not isinstance(source, HubSource):
                shutil.rmtree(other)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _still_good(
        self, name: str, source: str, sha256: str | None, progress: Progress
    ) -> StoredModel | None:
        """The stored model if it is the wanted one and every byte of it is right."""
        manifest = self.manifest(name)
        if manifest is None or manifest.source != source or sha256 not in {None, manifest.sha256}:
            return None
        path = self._models / name / manifest.file
        if not path.is_file() or _hash(path, progress) != manifest.sha256:
            return None
        return self._record(name, path, source, manifest.sha256)  # its mtime may have changed

    def _commit(
        self,
        name: str,
        source: PypiSource | HubSource,
        path: Path,
        sha256: str | None,
        progress: Progress,
    ) -> StoredModel:
        """Check a fetched file and make it the model of that name."""
        try:
            gguf.read_info(path)
        except gguf.GgufError as error:
            raise RayhostError(f"{name}: {source} brought no usable model: {error}") from error
        digest = _hash(path, progress)
        if sha256 not in {None, digest}:
            raise RayhostError(f"{name}: {source} has sha256 {digest}, expected {sha256}")
        folder = self._models / name
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{digest[:16]}.gguf"
        commit_file(path, target)
        model = self._record(name, target, str(source), digest)
        for old in folder.glob("*.gguf"):
            if old != target:
                old.unlink()  # a worker that has it mapped keeps it until it ends
        return model

    def _record(self, name: str, path: Path, source: str, sha256: str) -> StoredModel:
        """Write the manifest: from here on the model is visible."""
        now = path.stat()
        manifest = Manifest(path.name, source, sha256, now.st_size, now.st_mtime_ns)
        commit_bytes(msgspec.json.encode(manifest), path.parent / "manifest.json")
        return StoredModel(name, path, source, sha256, now.st_size)


def _in_place(
    name: str, source: FileSource, sha256: str | None, base: Path, progress: Progress
) -> StoredModel:
    path = source.at(base)
    if not path.is_file():
        raise RayhostError(f"{name}: {source}: no such file: {path}")
    if sha256 is not None and (digest := _hash(path, progress)) != sha256:
        raise RayhostError(f"{name}: {path} has sha256 {digest}, expected {sha256}")
    return StoredModel(name, path, str(source), sha256, path.stat().st_size)


def _hash(path: Path, progress: Progress) -> str:
    total = path.stat().st_size
    return sha256_of(path, lambda done: progress(done, total, "verifying"))
