"""Clients inside a box's network: one answer after the other, each on a connection of its own."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.vps.box import Box

PORT = 8080
TIMEOUT_S = 60
T = TypeVar("T")


@dataclass
class Tally:
    """How the answers of several clients ended."""

    whole: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Service:
    """The rayhost of a box, as its clients and its operator see it."""

    def __init__(self, machine: Box, key: str) -> None:
        self.machine = machine
        self.key = key

    @property
    def front(self) -> str:
        """The front's pid inside the box, "0" while there is none."""
        return self.machine.show("rayhost.service", "MainPID")

    @property
    def worker(self) -> str:
        """The worker's pid inside the box, empty while there is none."""
        found = self.machine.run("pgrep", "-f", "python -m rayhost.worker", check=False)
        return found.stdout.strip()

    def crowding(self) -> float:
        """Return how much longer than alone the box's CPU takes now, for others that run on it."""
        program = (
            "import time\nbegan = time.monotonic()\n"
            "while time.process_time() < 0.3: pass\n"
            "print((time.monotonic() - began) / 0.3)"
        )
        return max(1.0, float(self.machine.run("python3", "-c", program).stdout))

    def inside(self, ask: Callable[[], T]) -> T:
        """Call something in a thread whose sockets are the box's."""
        with ThreadPoolExecutor(1, initializer=self.machine.enter_network) as thread:
            return thread.submit(ask).result()

    def answer(self, tokens: int = 16) -> str:
        """Return a streamed answer; fail for one that is refused, cut or an error."""
        return self.inside(lambda: self._stream(tokens))

    def health(self) -> int:
        """Return the status of /health."""
        return self.inside(lambda: self._request("GET", "/health")[0])

    def state(self) -> dict[str, Any]:
        """Return what the admin socket tells."""
        said = self.machine.run(
            "curl",
            "-sS",
            "--unix-socket",
            f"/run/rayhost/{PORT}.sock",
            "http://rayhost/admin/state",
        )
        found: dict[str, Any] = json.loads(said.stdout)
        return found

    @contextlib.contextmanager
    def clients(self, count: int) -> Iterator[Tally]:
        """Let clients ask until the block ends; the tally is complete after it."""
        tally, stop, lock = Tally(), threading.Event(), threading.Lock()

        def work() -> None:
            self.machine.enter_network()
            while not stop.is_set():
                began = time.monotonic()
                try:
                    self._stream(16)
                except (OSError, http.client.HTTPException, AssertionError) as error:
                    with lock:
                        tally.wrong.append(repr(error))
                else:
                    with lock:
                        tally.whole += 1
                        tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield tally
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _stream(self, tokens: int) -> str:
        body = {
            "model": "smollm2-135m", "stream": True, "max_tokens": tokens, "temperature": 1,
            "messages": [{"role": "user", "content": "Tell me a story."}],
        }  # fmt: skip
        status, said = self._request("POST", "/v1/chat/completions", json.dumps(body))
        assert status == 200, said
        assert said.rstrip().endswith("data: [DONE]"), f"cut: {said[-300:]}"
        return said

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
