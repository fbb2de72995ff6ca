"""The folder with OpenAI's client for Node.js, made once for each state of the lock file."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "node"


def installed() -> Path:
    """Return the folder. Skips the test where the client cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    lock = (HERE / "package-lock.json").read_bytes()
    name = f"rayhost-node-{os.getuid()}-{hashlib.sha256(lock).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    if folder.exists() and folder.stat().st_uid == os.getuid():
        return folder
    new = Path(tempfile.mkdtemp(prefix=name))
    for file in HERE.glob("package*.json"):
        shutil.copy(file, new)
    options = ("--ignore-scripts", "--no-audit", "--no-fund")
    run = subprocess.run(
        ["npm", "ci", *options], cwd=new, capture_output=True, text=True, check=False
    )
    if run.returncode:
        shutil.rmtree(new)
        pytest.skip(f"npm could not install the client: {run.stderr[-300:]}")
    new.rename(folder)
    return folder
