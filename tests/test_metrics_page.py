"""The page of metrics is what the code says."""

from pathlib import Path

from rayhost.metrics_page import page

CHECKED_IN = Path(__file__).parents[1] / "docs" / "metrics.md"


def test_the_page_is_current() -> None:
    assert CHECKED_IN.read_text() == page(), "run `make metrics`"


def test_a_row_has_name_type_labels_and_meaning() -> None:
    assert (
        "| `rayhost_refusals_total` | counter | model, reason | "
        "Requests turned away before they became a run, by error code; without a model where none "
        "was asked for yet, and for `internal_error`, a mistake of the host. |\n"
    ) in page()
    assert "| `rayhost_connections` | gauge | none | Open client connections. |\n" in page()
