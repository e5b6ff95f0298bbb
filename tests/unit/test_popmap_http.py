"""The http popmap: an answer that repeats the client's password."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from perdition.endpoint import ConnectionEnds
from perdition.failure import MapUnavailable, Rejected
from perdition.options.table import Options
from perdition.popmap import PopMap, Query
from perdition.popmap.kinds import open_map

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)
Answering = Callable[[bytes], PopMap]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Return the map of a service that sends these bytes to one client."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve(answer: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)

    def start(answer: bytes) -> PopMap:
        threads.append(threading.Thread(target=serve, args=(answer,)))
        threads[-1].start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        return open_map(Options(map_library="http", map_library_opt=f"{url} Auth-Pass"))

    with listener:
        yield start
        for thread in threads:
            thread.join(10)


def headers(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.0 200 OK", *lines, "", "")).encode()


@pytest.mark.parametrize(
    ("password", "repeated"),
    [
        (b"secretpass", "secretpass"),
        (b"secret pass", "secret%20pass"),
        (b"p%w", "p%25w"),
        ("pässword".encode(), "pässword"),
    ],
)
@pytest.mark.parametrize("code", ["451 4.3.0", "535 5.7.8"])
def test_status_that_repeats_the_password_is_neither_logged_nor_sent(
    answering: Answering, password: bytes, repeated: str, code: str
) -> None:
    status = f"backend refused joe {repeated}"
    popmap = answering(headers(f"Auth-Status: {status}", f"Auth-Error-Code: {code}"))
    with pytest.raises((MapUnavailable, Rejected)) as raised:
        popmap.lookup(Query("joe", ENDS, password=password))
    failure = raised.value
    assert isinstance(failure, MapUnavailable) == code.startswith("4")
    assert failure.reply == type(failure).reply
    assert repeated not in failure.detail
    assert "repeats the password" in failure.detail


def test_answer_that_is_not_http_and_repeats_the_password_is_not_logged(
    answering: Answering,
) -> None:
    popmap = answering(b"refused joe secretpass\r\n\r\n")
    with pytest.raises(MapUnavailable) as raised:
        popmap.lookup(Query("joe", ENDS, password=b"secretpass"))
    assert "secret" not in raised.value.detail


def test_other_status_is_logged_and_sent(answering: Answering) -> None:
    popmap = answering(headers("Auth-Status: mailbox is moved", "Auth-Error-Code: 451"))
    with pytest.raises(MapUnavailable, match="mailbox is moved") as raised:
        popmap.lookup(Query("joe", ENDS, password=b"secretpass"))
    assert raised.value.reply == "mailbox is moved"
