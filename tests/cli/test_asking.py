"""Which model `ask` and `chat` take where none is named."""

from typing import Any

import pytest

from rayhost.cli.asking import chosen
from rayhost.cli.client import Client
from rayhost.errors import RayhostError


class Listing(Client):
    """A host that serves what the test says."""

    def __init__(self, *models: dict[str, Any]) -> None:
        super().__init__("http://127.0.0.1:1")
        self._listed = list(models)

    def models(self) -> list[dict[str, Any]]:
        return self._listed


def able(name: str, *, chat: bool, state: str = "ready") -> dict[str, Any]:
    return {"id": name, "state": state, "capabilities": {"chat": chat, "embedding": not chat}}


def test_a_named_model_is_taken_unseen() -> None:
    assert chosen(Client("http://127.0.0.1:1"), "any") == "any"


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([able("minilm", chat=False), able("smol", chat=True)], "smol"),
        ([able("slow", chat=True, state="loading"), able("smol", chat=True)], "smol"),
        # Before a worker has read the file, and on other hosts, nothing is said.
        ([{"id": "gpt"}], "gpt"),
        ([{"id": "starting", "state": "starting"}, {"id": "smol", "state": "ready"}], "smol"),
    ],
)
def test_the_first_that_can_chat_now_is_taken(models: list[dict[str, Any]], expected: str) -> None:
    assert chosen(Listing(*models), None) == expected


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], "no model there can chat"),
        ([able("minilm", chat=False)], "no model there can chat"),
        ([able("smol", chat=True, state="failed")], "no model is ready: smol is failed"),
    ],
)
def test_where_there_is_none_it_says_why(models: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(RayhostError, match=said):
        chosen(Listing(*models), None)
