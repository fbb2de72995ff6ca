"""What a scrape shows."""

from prometheus_client.parser import text_string_to_metric_families

from rayhost.metrics import Metrics, WorkerReading

MS = 1_000_000


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """The value of each sample of `rayhost_` metrics, by its name and its labels' values."""
    return {
        (sample.name, ",".join(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("rayhost_")
    }


def end(metrics: Metrics, outcome: str, *, started_ns: int, first_token_ns: int) -> None:
    metrics.ended(
        model="tiny",
        outcome=outcome,
        prompt_tokens=10,
        generated_tokens=3,
        arrived_ns=100 * MS,
        started_ns=started_ns,
        first_token_ns=first_token_ns,
        ended_ns=600 * MS,
    )


def test_a_request_that_ended_is_counted_and_timed() -> None:
    metrics = Metrics()
    end(metrics, "stop", started_ns=120 * MS, first_token_ns=180 * MS)
    shown = samples(metrics)
    assert shown["rayhost_requests_total", "tiny,stop"] == 1
    assert shown["rayhost_tokens_total", "prompt,tiny"] == 10
    assert shown["rayhost_tokens_total", "generated,tiny"] == 3
    assert shown["rayhost_queue_seconds_sum", "tiny"] == 0.02
    assert shown["rayhost_time_to_first_token_seconds_sum", "tiny"] == 0.08
    assert shown["rayhost_request_seconds_sum", "tiny"] == 0.5


def test_a_time_that_never_came_is_not_an_observation() -> None:
    metrics = Metrics()
    end(metrics, "cancelled", started_ns=0, first_token_ns=0)
    shown = samples(metrics)
    assert shown["rayhost_requests_total", "tiny,cancelled"] == 1
    assert shown["rayhost_request_seconds_count", "tiny"] == 1
    assert ("rayhost_queue_seconds_count", "tiny") not in shown
    assert ("rayhost_time_to_first_token_seconds_count", "tiny") not in shown


def test_worker_figures_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    steps = 0

    def read() -> list[WorkerReading]:
        return [
            WorkerReading("tiny", 1, 2, 3, steps, 5.0, 4.5),
            WorkerReading("other", 0, 0, 0, 0, 0.0, 0.0),
        ]

    metrics.watch(read)
    steps = 7
    shown = samples(metrics)
    assert shown["rayhost_queued", "tiny"] == 1
    assert shown["rayhost_active_sequences", "tiny"] == 2
    assert shown["rayhost_kv_tokens", "tiny"] == 3
    assert shown["rayhost_steps_total", "tiny"] == 7
    assert shown["rayhost_step_seconds_total", "tiny"] == 5.0
    assert shown["rayhost_decode_seconds_total", "tiny"] == 4.5
    assert shown["rayhost_steps_total", "other"] == 0
    steps = 8
    assert samples(metrics)["rayhost_steps_total", "tiny"] == 8


def test_two_fronts_in_one_process_do_not_share_counts() -> None:
    metrics = Metrics()
    metrics.refused("tiny", "queue_full")
    assert samples(metrics)["rayhost_requests_total", "tiny,queue_full"] == 1
    assert samples(Metrics()) == {}


def test_the_process_itself_is_shown() -> None:
    assert b"process_resident_memory_bytes" in Metrics().render()
