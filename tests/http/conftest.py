"""An app over a scripted front, for every test of the HTTP layer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from starlette.types import ASGIApp

from rayhost.http.app import build_app
from tests.http.fake_front import FakeFront

BODY_BYTES = 4096


@pytest.fixture
def front() -> FakeFront:
    return FakeFront()


@pytest.fixture
def app(front: FakeFront) -> ASGIApp:
    return build_app(
        front, body_bytes=BODY_BYTES, metrics=lambda accept: (b"rayhost_up 1\n", accept)
    )


@pytest_asyncio.fixture
async def no_task_leaks() -> AsyncIterator[None]:
    """Fail a test that leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left
