"""Hosts and ports: how they are written, and what is none."""

import socket
from contextlib import ExitStack

import pytest

from perdition.endpoint import Endpoint, parse_endpoints
from perdition.net.resolver import resolve
from perdition.process.listening import Binder
from perdition.process.takeover import by_address
from tests.support import processes


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mx.example", "mx.example", ""),
        ("mx.example:143", "mx.example", "143"),
        ("mx.example:imap", "mx.example", "imap"),
        ("mx.example:", "mx.example", ""),
        ("192.0.2.1:143", "192.0.2.1", "143"),
        ("[2001:db8::1]", "2001:db8::1", ""),
        ("[2001:db8::1]:143", "2001:db8::1", "143"),
        ("2001:db8::1", "2001:db8::1", ""),
        ("::1", "::1", ""),
        ("[192.0.2.1]:143", "192.0.2.1", "143"),
        (":143", "", "143"),
        ("", "", ""),
    ],
)
def test_endpoint(text: str, host: str, port: str) -> None:
    assert Endpoint.parse(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("", ()),
        ("a", (Endpoint("a"),)),
        ("a:1, [::1]:2 ,,b", (Endpoint("a", "1"), Endpoint("::1", "2"), Endpoint("b"))),
    ],
)
def test_list_of_endpoints(text: str, endpoints: tuple[Endpoint, ...]) -> None:
    assert parse_endpoints(text) == endpoints


@pytest.mark.parametrize("text", ["mx.example:143", "mx.example", "192.0.2.1:143", "[::1]:143"])
def test_endpoint_is_written_as_it_is_read(text: str) -> None:
    assert Endpoint.parse(str(Endpoint.parse(text))) == Endpoint.parse(text)


def test_numbers_need_no_lookup() -> None:
    assert [address.sockaddr[:2] for address in resolve(Endpoint("127.0.0.1", "143"))] == [
        ("127.0.0.1", 143)
    ]


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("a..b", "143"),
        ("x" * 64, "143"),
        ("caf\udce9", "143"),
        ("127.0.0.1", "\udce9"),
        ("127.0.0.1", "no-such-service"),
        ("127.0.0.1", "99999"),
        ("127.0.0.1", "-1"),
    ],
)
def test_what_can_be_no_address_is_an_os_error(host: str, port: str) -> None:
    """As each user may name a host and a port of their own, and a popmap any."""
    with pytest.raises(OSError, match=r"\S"):
        resolve(Endpoint(host, port))


@pytest.mark.parametrize("places", [(), (Endpoint("127.0.0.1"), Endpoint("127.0.0.2"))])
def test_sockets_that_are_inherited_are_listened_to_again(places: tuple[Endpoint, ...]) -> None:
    """Nothing new is bound where something listens already; what is not wanted stays inherited."""
    with ExitStack() as stack:
        [port] = processes.free_ports(1)
        before = Binder(False, False, {}).listen(places, str(port))
        unwanted = socket.create_server(("127.0.0.1", 0))
        for sock in (*before, unwanted):
            stack.enter_context(sock)
        inherited = by_address([*before, unwanted])

        after = Binder(False, False, inherited).listen(places, str(port))

        assert {sock.fileno() for sock in after} == {sock.fileno() for sock in before}
        assert list(inherited.values()) == [unwanted]
