"""The listening socket: what it says of itself, and of an address that cannot be had."""

import socket

import pytest

from rayhost.errors import RayhostError
from rayhost.http.server import listen, url


def test_any_free_port_is_a_port_that_answers() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url(listener) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_the_url_of_all_addresses_is_one_that_can_be_pasted() -> None:
    with listen("0.0.0.0", 0) as listener:
        assert url(listener).startswith("http://127.0.0.1:")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_ipv6_address_is_bracketed(host: str) -> None:
    try:
        listener = listen(host, 0)
    except RayhostError as error:  # built in, but switched off
        pytest.skip(str(error))
    with listener:
        assert url(listener).startswith("http://[::1]:")


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RayhostError, match=rf"127.0.0.1:{port}: .*in use; .*--port") as caught:
            listen("127.0.0.1", port)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["203.0.113.1", "no-such-host.invalid", "a" * 64, "two..dots", "ü" * 100]
)
def test_an_address_that_is_not_this_machines_is_one_line(host: str) -> None:
    with pytest.raises(RayhostError, match="cannot listen on") as caught:
        listen(host, 0)
    assert host in str(caught.value)
    assert "\n" not in str(caught.value)
