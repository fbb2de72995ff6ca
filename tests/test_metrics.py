"""What a scrape shows."""

import math

from prometheus_client.parser import text_string_to_metric_families

from rayhost.metrics import CpuReading, FrontReading, Metrics, WorkerReading

MS = 1_000_000


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """The value of each sample of `rayhost_` metrics, by its name and its labels' values."""
    return {
        (sample.name, ",".join(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("rayhost_") and not sample.name.endswith("_created")
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
    assert shown["rayhost_decode_seconds_total", "tiny"] == 4.5
    assert shown["rayhost_steps_total", "other"] == 0
    steps = 8
    assert samples(metrics)["rayhost_steps_total", "tiny"] == 8


def test_two_fronts_in_one_process_do_not_share_counts() -> None:
    metrics = Metrics()
    metrics.refused("tiny", "queue_full")
    assert samples(metrics)["rayhost_requests_total", "tiny,queue_full"] == 1
    assert samples(Metrics()) == {}


def test_a_refusal_is_a_request_and_has_its_reason() -> None:
    metrics = Metrics()
    metrics.refused("tiny", "queue_full")
    assert samples(metrics) == {
        ("rayhost_requests_total", "tiny,queue_full"): 1,
        ("rayhost_refusals_total", "tiny,queue_full"): 1,
    }


def test_requests_that_got_an_error_are_summed_by_its_code() -> None:
    metrics = Metrics()
    for outcome in ("stop", "length", "cancelled", "displaced"):
        end(metrics, outcome, started_ns=0, first_token_ns=0)
    metrics.refused("tiny", "queue_full")
    metrics.refused("other", "queue_full")
    metrics.refused("", "invalid_api_key")
    told = {"displaced": 1, "queue_full": 2, "invalid_api_key": 1}
    assert metrics.unanswered() == told


def test_a_refusal_at_the_door_is_no_request_of_a_model() -> None:
    metrics = Metrics()
    metrics.refused("", "invalid_api_key")
    assert samples(metrics) == {("rayhost_refusals_total", ",invalid_api_key"): 1}


def test_what_others_report_is_counted_by_its_label() -> None:
    metrics = Metrics()
    metrics.cache("tiny", "hit")
    metrics.cache("tiny", "hit")
    metrics.answered_from_cache("tiny", "stop", 5)
    metrics.degraded("tiny", "max_tokens")
    metrics.restarted("tiny", "killed")
    metrics.connection_closed("head_timeout")
    assert samples(metrics) == {
        ("rayhost_cache_lookups_total", "tiny,hit"): 2,
        ("rayhost_requests_total", "tiny,stop"): 1,
        ("rayhost_tokens_total", "cached,tiny"): 5,
        ("rayhost_degradations_total", "tiny,max_tokens"): 1,
        ("rayhost_worker_restarts_total", "killed,tiny"): 1,
        ("rayhost_connections_closed_total", "head_timeout"): 1,
    }


def test_the_gap_between_tokens_is_shared_by_the_tokens_of_a_step() -> None:
    metrics = Metrics()
    metrics.gap("tiny", 60 * MS, 2)
    shown = samples(metrics)
    assert shown["rayhost_inter_token_seconds_sum", "tiny"] == 0.03
    assert shown["rayhost_inter_token_seconds_count", "tiny"] == 1


def test_readings_by_label_and_the_front_are_shown() -> None:
    metrics = Metrics()
    reading = WorkerReading(
        *("tiny", 3, 0, 0, 2, 0.0, 0.0),
        prefill_tokens=40,
        decode_tokens=8,
        rss_bytes=1000,
        queued_by_priority={"high": 1, "low": 2},
        reused_tokens={"ram": 30},
        width=2,
    )
    idle = WorkerReading("dead", 0, 0, 0, 0, 0.0, 0.0)
    metrics.watch(lambda: [reading, idle], lambda: FrontReading(2000, 5, 6, 7))
    shown = samples(metrics)
    assert shown["rayhost_queue_depth", "tiny,low"] == 2
    assert shown["rayhost_width", "tiny"] == 2
    assert shown["rayhost_reused_tokens_total", "tiny,ram"] == 30
    assert shown["rayhost_step_tokens_total", "tiny,prefill"] == 40
    assert shown["rayhost_step_tokens_total", "tiny,decode"] == 8
    assert shown["rayhost_worker_rss_bytes", "tiny"] == 1000
    assert ("rayhost_worker_rss_bytes", "dead") not in shown
    assert shown["rayhost_front_rss_bytes", ""] == 2000
    assert shown["rayhost_connections", ""] == 5
    assert shown["rayhost_cache_bytes", ""] == 7


def test_what_is_kept_back_of_the_cpus_is_shown() -> None:
    metrics = Metrics()
    cpu = CpuReading(0.5, stolen_seconds=8.12, throttled_seconds=22.5, throttled_periods=731)
    metrics.watch(list, lambda: FrontReading(0, 0, cpu=cpu))
    shown = samples(metrics)
    assert shown["rayhost_cpu_cores", ""] == 0.5
    assert shown["rayhost_cpu_stolen_seconds_total", ""] == 8.12
    assert shown["rayhost_cpu_throttled_seconds_total", ""] == 22.5
    assert shown["rayhost_cpu_throttled_periods_total", ""] == 731
    assert ("rayhost_cpu_waiting_ratio", "") not in shown  # not told is not none
    metrics = Metrics()
    metrics.watch(list, lambda: FrontReading(0, 0, cpu=CpuReading(waiting=0.0)))
    assert samples(metrics)["rayhost_cpu_waiting_ratio", ""] == 0


def test_steps_are_counted_by_their_time_and_size() -> None:
    metrics = Metrics()
    reading = WorkerReading(
        *("tiny", 0, 0, 0, 6, 0.25, 0.0),
        batch_tokens=40,
        steps_by_seconds={0.01: 1, 0.1: 2, math.inf: 3},
        steps_by_tokens={1: 4, 8: 0, math.inf: 2},
    )
    metrics.watch(lambda: [reading])
    shown = samples(metrics)
    seconds = [shown["rayhost_step_seconds_bucket", f"{le},tiny"] for le in ("0.01", "0.1", "+Inf")]
    assert seconds == [1, 3, 6]
    assert shown["rayhost_step_seconds_sum", "tiny"] == 0.25
    tokens = [shown["rayhost_batch_tokens_bucket", f"{le},tiny"] for le in ("1.0", "8.0", "+Inf")]
    assert tokens == [4, 4, 6]
    assert shown["rayhost_batch_tokens_sum", "tiny"] == 40
    assert shown["rayhost_batch_tokens_count", "tiny"] == 6


def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    metrics = Metrics()
    end(metrics, "stop", started_ns=120 * MS, first_token_ns=180 * MS)
    metrics.watch(lambda: [WorkerReading("tiny", 1, 2, 3, 4, 5.0, 4.5)])
    body, content_type = metrics.expose("application/openmetrics-text; version=1.0.0, text/plain")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert b"\n# TYPE rayhost_requests counter\n" in body
    assert b'\nrayhost_steps_total{model="tiny"} 4.0\n' in body
    assert body.endswith(b"\n# EOF\n")
    assert metrics.expose("*/*")[1].startswith("text/plain")


def test_the_process_itself_is_shown() -> None:
    assert b"process_resident_memory_bytes" in Metrics().render()
