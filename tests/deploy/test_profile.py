"""A profile as the deployment reads it: wrong types are one line, and so is a file out of reach."""

import json
from pathlib import Path
from typing import Any

import pytest

from rayhost.deploy.profile import files, read_profile, unreachable
from rayhost.errors import RayhostError


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "expected an object"),
        ("{", "cannot be read"),
        ('{"listen": []}', "listen: expected an object"),
        ('{"limits": null}', "limits: expected an object"),
        ('{"models": {}}', "models: expected a list"),
        ('{"models": ["a"]}', r"models\[0\]: expected an object"),
        ('{"models": [{}, {"cpus": 3}]}', r"models\[1\].cpus: expected"),
        ('{"cpus": {"front": ["0"]}}', "cpus.front: expected"),
        ('{"cpus": {"workers": [true]}}', "cpus.workers: expected"),
        ('{"limits": {"drain_s": "30"}}', "limits.drain_s: expected a number"),
        ('{"limits": {"head_s": 1e999}}', "limits.head_s: expected a number"),
        ('{"listen": {"admin_socket": 1}}', "listen.admin_socket: expected a path"),
    ],
)
def test_a_wrong_type_is_one_line_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(RayhostError, match=why) as told:
        read_profile(path)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_what_is_right_comes_as_it_is(tmp_path: Path) -> None:
    profile: dict[str, Any] = {
        "models": [{"name": "a", "cpus": [0, 1]}, {"name": "b", "cpus": "auto"}],
        "limits": {"drain_s": 2.5, "queue": 3}, "cpus": {"front": [0]},
        "listen": {"admin_socket": None},
    }  # fmt: skip
    (tmp_path / "p").write_text(json.dumps(profile))
    assert read_profile(tmp_path / "p") == profile
    assert read_profile(None) == {}


MODEL = {
    "source": "file:m.gguf", "chat_template": "file:t", "preload": ["file:p", "text", "file:t"],
}  # fmt: skip


def test_files_that_a_profile_names_are_found_once() -> None:
    assert files({"models": [MODEL, {"source": "pypi:a==1"}]}) == ["m.gguf", "t", "p"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("pypi:a==1", ""),
        ("file:there.gguf", ""),
        ("file:/srv/a.gguf", ""),
        ("file:~/a.gguf", ""),
        ("file:a.gguf", "install -D -m 644 /x/a.gguf"),
        ("file:/root/a.gguf", "move it to /srv"),
        ("file:/home/me/a.gguf", "move it to /srv"),
        ("file:/tmp/a.gguf", "move it to /srv"),
    ],
)
def test_what_the_service_will_not_find_is_told(tmp_path: Path, source: str, why: str) -> None:
    (tmp_path / "there.gguf").touch()
    told = unreachable({"models": [{"source": source}]}, Path("/x/profile.json"), tmp_path)
    assert why in told
    assert bool(told) == bool(why)
