"""What counts as better for each goal, and how the knobs are turned."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.baseline.calibration import Goal, Settings
from rayhost.baseline.spread import Spread
from rayhost.tuning import search
from rayhost.tuning.search import Figures, Trial, Weights


def exactly(median: float, noise: float = 0.0) -> Spread:
    return Spread(median, median * (1 - noise), median * (1 + noise), 3)


def figures(
    prefill: float = 300, alone: float = 100, together: float = 200, mb: int = 300, noise: float = 0
) -> Figures:
    return Figures(
        exactly(prefill, noise), exactly(alone, noise), exactly(together, noise), mb * 1_000_000
    )


SOURCE = Trial(None, Settings(), figures())


def test_each_goal_wants_its_own_figure() -> None:
    quick_alone, quick_together, small = figures(alone=150), figures(together=300), figures(mb=200)
    trials = [Trial(None, Settings(), each) for each in (quick_alone, quick_together, small)]
    goals: list[tuple[Goal, Figures]] = [
        ("latency", quick_alone),
        ("throughput", quick_together),
        ("memory", small),
    ]
    for goal, wanted in goals:
        assert search.best_of(goal, trials, SOURCE).figures is wanted


def test_a_ruined_prefill_is_no_win() -> None:
    lopsided = Trial(None, Settings(), figures(prefill=60, together=250))
    assert search.best_of("throughput", [lopsided], SOURCE) is SOURCE


def test_memory_is_not_bought_with_any_speed() -> None:
    slow = Trial(None, Settings(), figures(prefill=150, together=100, mb=100))
    assert search.best_of("memory", [slow], SOURCE) is SOURCE


def test_what_is_within_the_noise_is_not_better() -> None:
    assert not search.better("throughput", figures(together=203), figures())
    assert search.better("throughput", figures(together=260), figures())
    noisy = figures(together=260, noise=0.4)
    assert not search.better("throughput", noisy, figures())


def test_nothing_better_leaves_the_source() -> None:
    assert search.best_of("latency", [], SOURCE) is SOURCE
    worse = Trial(None, Settings(), figures(alone=50))
    assert search.best_of("latency", [worse], SOURCE) is SOURCE


def test_every_knob_is_turned_from_the_best_so_far() -> None:
    seen: list[Settings] = []

    def attempt(settings: Settings) -> Trial:
        seen.append(settings)
        gain = (settings.kv_layout == "unified") + (settings.kv_type == "q8_0")
        return Trial(None, settings, figures(together=200 * 1.5**gain))

    best = search.descend("throughput", SOURCE, SOURCE, search.axes(2, 2), attempt)
    assert best.settings == Settings(kv_layout="unified", kv_type="q8_0")
    assert all(settings.kv_layout == "unified" for settings in seen[2:])
    assert len(seen) == len(set(map(str, seen)))


def test_what_does_not_run_is_passed_over() -> None:
    assert (
        search.descend("latency", SOURCE, SOURCE, search.axes(2, 2), lambda settings: None)
        is SOURCE
    )


@given(st.integers(1, 16), st.integers(1, 2))
def test_q8_cells_and_flash_attention_off_never_meet(cores: int, siblings: int) -> None:
    tried: list[Settings] = []

    def attempt(settings: Settings) -> Trial:
        tried.append(settings)
        return Trial(None, settings, figures(together=200 + 100 * len(tried)))  # all are better

    search.descend("throughput", SOURCE, SOURCE, search.axes(cores, cores * siblings), attempt)
    assert tried
    assert all(each.flash or each.kv_type == "f16" for each in tried)


def test_thread_counts_beside_the_default_are_tried() -> None:
    assert search.axes(2, 4)[0] == ({"threads": 1}, {"threads": 4})
    assert search.axes(8, 8)[0] == ({"threads": 1}, {"threads": 4})
    assert search.axes(1, 1)[0] == ()


def test_every_micro_batch_that_is_tried_splits_the_prompt_that_is_timed() -> None:
    sizes = [
        change["ubatch"] for axis in search.axes(2, 2) for change in axis if "ubatch" in change
    ]
    assert sizes
    assert all(size < search.PREFILL <= Settings().ubatch for size in sizes)


def test_a_request_is_a_prompt_and_an_answer() -> None:
    assert search.cost("latency", figures(prefill=128, alone=64)) == pytest.approx(1 + 2)
    assert search.cost("throughput", figures(prefill=128, together=256)) == pytest.approx(1 + 0.5)
    assert search.cost("memory", figures(mb=7)) == 7_000_000


def test_weights_have_names_that_files_can_have() -> None:
    labels = [weights.label for weights in search.WEIGHTS]
    assert len(set(labels)) == len(labels)
    assert Weights("Q4_0", "Q4_0").label == "Q4_0+emb-Q4_0"
    assert all("/" not in label for label in labels)


def test_trials_name_their_weights() -> None:
    assert SOURCE.label == "as it is"
    assert Trial(Weights("Q8_0"), Settings(), figures()).label == "Q8_0"
    assert msgspec.json.decode(msgspec.json.encode(figures()), type=Figures) == figures()
