"""What tuning chose is served where the profile leaves it open, and only there."""

from pathlib import Path

import msgspec
import pytest

from rayhost.baseline.calibration import Calibrations, Settings
from rayhost.cli.calibrated import calibrated
from rayhost.models.store import Store
from rayhost.profile import Kv, ModelProfile
from tests.baseline.figures import CPU, baseline
from tests.baseline.test_calibration import MODEL, TUNED


class Home:
    """A store with a tuned model."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.records = Calibrations(root, CPU)
        with self.store.workplace("m", 10) as folder:
            (folder / "x.gguf").write_bytes(b"tuned")
            self.variant = self.store.keep_variant("m", folder / "x.gguf")
        self.tuned = msgspec.structs.replace(TUNED, variant=self.variant)
        self.records.save_tuned("m", self.tuned)

    def choice(self, **profile: object) -> tuple[Path, Settings, str]:
        model = msgspec.structs.replace(ModelProfile("m"), **profile)
        found = calibrated(model, MODEL, self.store, self.records)
        return found.path, found.settings, found.advice or ""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_file_and_settings_are_those_that_were_chosen(home: Home) -> None:
    path, settings, advice = home.choice()
    assert path.read_bytes() == b"tuned"
    assert settings == TUNED.settings
    assert advice == ""


def test_what_the_profile_says_itself_wins(home: Home) -> None:
    _, settings, _ = home.choice(kv=Kv("f16", "unified"))
    assert (settings.kv_type, settings.kv_layout, settings.threads) == ("f16", "unified", 1)
    assert home.choice(kv=Kv("auto", "auto"))[1].kv_type == "q8_0"


def test_a_reproducible_model_gets_the_cache_that_makes_it_so(home: Home) -> None:
    settings = home.choice(reproducible=True)[1]
    assert (settings.kv_type, settings.kv_layout) == ("q8_0", "split")
    assert settings.flash


@pytest.mark.parametrize("given", [{"threads": 2}, {"cpus": (0,)}])
def test_threads_are_not_tuned_for_cpus_that_the_profile_names(
    home: Home, given: dict[str, object]
) -> None:
    assert home.choice(**given)[1].threads is None


def test_a_pinned_digest_is_served_and_no_other_file(home: Home) -> None:
    path, settings, _ = home.choice(sha256="1")
    assert path == MODEL.path
    assert settings == Settings()


def test_settings_for_the_file_itself_need_no_variant(home: Home) -> None:
    home.records.save_tuned("m", msgspec.structs.replace(home.tuned, variant=None))
    path, settings, _ = home.choice(sha256="1")
    assert (path, settings) == (MODEL.path, TUNED.settings)


def test_a_variant_that_is_gone_is_told_of_and_not_missed(home: Home) -> None:
    home.store.remove_variants("m")
    path, settings, advice = home.choice()
    assert (path, settings) == (MODEL.path, Settings())
    assert advice == "the tuned file of m is gone; run: rayhost tune m"


def test_cells_of_q8_0_get_the_flash_attention_they_need(home: Home) -> None:
    without = Settings(flash_attention=False)
    home.records.save_tuned("m", msgspec.structs.replace(home.tuned, settings=without))
    assert home.choice(kv=Kv("q8_0", "auto"))[1].flash
    assert not home.choice()[1].flash


def test_a_dry_run_changes_nothing_and_tells_its_worth(home: Home) -> None:
    home.records.forget_tuned("m")
    home.records.save_tuned("m", msgspec.structs.replace(home.tuned, applied=False))
    path, settings, advice = home.choice()
    assert (path, settings) == (MODEL.path, Settings())
    assert advice == (
        "m was never tuned on this machine: run `rayhost tune m`; "
        "a dry run measured 1.90 times as good for throughput"
    )


def test_a_dry_run_that_found_nothing_is_not_repeated_at_every_start(home: Home) -> None:
    home.records.forget_tuned("m")
    home.records.save_tuned("m", msgspec.structs.replace(home.tuned, applied=False, gain=1.0))
    assert home.choice()[2] == ""


def test_a_box_that_was_never_tuned_says_what_is_measured(home: Home) -> None:
    home.records.forget_tuned("m")
    assert "with --dry-run it only measures" in home.choice()[2]
    home.records.save_baseline(baseline())
    assert "`rayhost bench` measured 50% of what memory allows one sequence" in home.choice()[2]
