"""Small wheels for tests of the store, written without a build backend, and pip told of them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest


def write_wheel(folder: Path, package: str, version: str, files: Mapping[str, bytes]) -> Path:
    """Write a wheel that pip accepts, with `files` by member name, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{package.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        for name, text in about.items():
            archive.writestr(f"{stem}.dist-info/{name}", text)
    return path


def offline(monkeypatch: pytest.MonkeyPatch, links: str) -> None:
    """Have pip, and so every pull of the test, look at `links` (a folder or a URL) only."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", links)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
