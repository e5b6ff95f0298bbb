"""Hosts and ports: their forms, lookup and listening sockets."""

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
def test_host_and_port_are_divided(text: str, host: str, port: str) -> None:
    assert Endpoint.parse(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("", ()),
        ("a", (Endpoint("a"),)),
        ("a:1, [::1]:2 ,,b", (Endpoint("a", "1"), Endpoint("::1", "2"), Endpoint("b"))),
    ],
)
def test_list_of_endpoints_is_divided_at_commas(text: str, endpoints: tuple[Endpoint, ...]) -> None:
    assert parse_endpoints(text) == endpoints


@pytest.mark.parametrize("text", ["mx.example:143", "mx.example", "192.0.2.1:143", "[::1]:143"])
def test_endpoint_is_written_as_it_is_read(text: str) -> None:
    assert Endpoint.parse(str(Endpoint.parse(text))) == Endpoint.parse(text)


def test_numeric_address_is_its_own_lookup() -> None:
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
def test_impossible_address_raises_os_error(host: str, port: str) -> None:
    """Users and popmaps may name any host and port."""
    with pytest.raises(OSError, match=r"\S"):
        resolve(Endpoint(host, port))


@pytest.mark.parametrize("places", [(), (Endpoint("127.0.0.1"), Endpoint("127.0.0.2"))])
def test_inherited_sockets_are_reused(places: tuple[Endpoint, ...]) -> None:
    """An address that is bound already is not bound again; unwanted sockets stay inherited."""
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
