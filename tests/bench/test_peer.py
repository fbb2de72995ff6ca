"""The peer's build: the flags it is known by, and the same ones as our own."""

import importlib.metadata
from pathlib import Path

import pytest

from bench import peer


def test_every_flag_makes_another_build() -> None:
    base = peer.build_of({}, "1.0")
    others = [
        peer.build_of({}, "1.1"),
        peer.build_of({"CMAKE_ARGS": "-DGGML_OPENMP=OFF"}, "1.0"),
        peer.build_of({"CFLAGS": "-O2"}, "1.0"),
        peer.build_of({"CXXFLAGS": "-O2"}, "1.0"),
    ]
    assert len({build.digest for build in (base, *others)}) == 5
    assert base.digest == peer.build_of({"CFLAGS": " "}, "1.0").digest


def test_cmake_arguments_come_last_so_that_they_win() -> None:
    build = peer.build_of({"CMAKE_ARGS": "-DA='x y' -DCMAKE_BUILD_TYPE=Debug"}, "1.0")
    assert build.cmake[-2:] == ("-DA=x y", "-DCMAKE_BUILD_TYPE=Debug")


def test_same_flags_are_those_of_setup_and_stock_ones_leave_out_the_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXXFLAGS", "-funroll-loops")
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_LTO=ON")
    same, stock = peer.compiling("same"), peer.compiling("stock")
    assert "-funroll-loops" in same["CXXFLAGS"]
    assert same["CMAKE_ARGS"] == "-DGGML_LTO=ON"
    assert "-funroll-loops" not in stock.get("CXXFLAGS", "")
    assert "CMAKE_ARGS" not in stock


@pytest.mark.parametrize("relative", ["", "not/absolute"])
def test_builds_are_kept_outside_the_checkout(
    relative: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert peer.cache() == tmp_path / "rayhost" / "peer"
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert peer.cache() == tmp_path / ".cache" / "rayhost" / "peer"


def test_a_kept_build_is_used_and_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peer, "_system_info", lambda _: "AVX2 = 1")
    build = peer.build_of(peer.compiling("same"), importlib.metadata.version(peer.ENGINE))
    kept = peer.cache() / f"{build.version}-{build.digest}" / "bin"
    kept.mkdir(parents=True)
    said: list[str] = []
    found = peer.llama_server("same", said.append)
    assert found.program == kept / "llama-server"
    assert said == []
    assert build.version in found.built


def test_a_build_that_fails_leaves_nothing_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(peer.PeerFailed, match=r"failed; see .*\.log"):
        peer.llama_server("same", lambda _: None)
    assert not list(peer.cache().glob("*/bin"))
