"""What only Redis and HTTP services have."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdition.endpoint import Endpoint
from perdition.failure import MapUnavailable, Rejected, StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, Query
from perdition.popmap.kinds import open_map
from tests.maps.test_servers import ANSWERS, ENDS
from tests.support.folders import public_folder
from tests.support.map_servers import AuthService, AuthServiceWithTLS, Redis, RedisWithTLS

USERS = """\
joe:north
late:later
max:müller@north
ann:hers/theirs/north
bob:his//north
eve:/theirs/north
"""


@pytest.fixture(scope="module")
def service() -> Iterator[AuthService]:
    with public_folder() as folder, AuthService(folder) as running:
        running.load(USERS)
        yield running


def test_temporary_status_is_unavailable(service: AuthService) -> None:
    popmap = open_map(Options(map_library="http", map_library_opt=service.option()))
    with pytest.raises(MapUnavailable, match="Try later") as failed:
        popmap.lookup(Query("late", ENDS))
    assert failed.value.reply == "Try later"
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]
    popmap.close()


def test_user_keeps_the_bytes_of_the_service(service: AuthService) -> None:
    popmap = open_map(Options(map_library="http", map_library_opt=service.option()))
    assert popmap.lookup(Query("max", ENDS)) == Destination(Endpoint("north"), "müller")
    popmap.close()


def test_service_with_passwords_can_reject_a_login(service: AuthService) -> None:
    """It says which are right, and may have others for the real server."""
    option = f"{service.option()} Auth-Pass"
    popmap = open_map(Options(map_library="http", map_library_opt=option))
    assert popmap.wants_password
    ann = popmap.lookup(Query("ann", ENDS, password=b"hers"))
    assert ann == Destination(Endpoint("north"), "", b"theirs")
    assert "theirs" not in repr(ann)
    bob = popmap.lookup(Query("bob", ENDS, password=b"his"))
    assert bob == Destination(Endpoint("north"), "", None)
    for query in (Query("ann", ENDS, password=b"his"), Query("nobody", ENDS, password=b"hers")):
        with pytest.raises(Rejected, match="Invalid login or password"):
            popmap.lookup(query)
    popmap.close()


def test_password_from_a_service_without_passwords_is_ignored(service: AuthService) -> None:
    """Or it would let anybody in."""
    popmap = open_map(Options(map_library="http", map_library_opt=service.option()))
    assert not popmap.wants_password
    found = popmap.lookup(Query("eve", ENDS))
    assert found == Destination(Endpoint("north"))
    popmap.close()


def test_answers_with_passwords_are_not_cached(service: AuthService) -> None:
    option = f"{service.option()} Auth-Pass"
    with pytest.raises(
        StartupError, match="map_cache: cannot be combined with a popmap that verifies"
    ):
        open_map(Options(map_library="http", map_library_opt=option, map_cache=60))


def test_next_service_is_asked_if_the_first_fails_temporarily(service: AuthService) -> None:
    with public_folder() as folder, AuthService(folder) as other:
        other.load("late:north\n")
        option = f"{service.option()},{other.option()}"
        popmap = open_map(Options(map_library="http", map_library_opt=option))
        assert popmap.lookup(Query("late", ENDS)) == ANSWERS["joe"]
        popmap.close()


def test_service_without_auth_headers_is_unavailable() -> None:
    """A reply without the headers of auth_http does not mean that the user is unknown."""
    with public_folder() as folder, AuthService(folder) as running:
        running.load("joe:north\n")
        (folder / "users").unlink()  # the service fails, its connection is closed
        popmap = open_map(Options(map_library="http", map_library_opt=running.option()))
        with pytest.raises(MapUnavailable):
            popmap.lookup(Query("joe", ENDS))
        popmap.close()


def request(folder: Path, more: str, query: Query) -> list[str]:
    """The lines of the request that a map makes, whose URL has a password from a file."""
    (folder / "password").write_text("se:cret\n")
    asked = bytearray()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while b"\r\n\r\n" not in asked:
                asked.extend(connection.recv(4096))
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: north\r\n"
                b"Content-Length: 0\r\n\r\n"
            )

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://me:@{folder}/password@127.0.0.1:{listener.getsockname()[1]}/auth?x=1"
        popmap = open_map(
            Options(map_library="http", map_library_opt=url + more, protocol="IMAP4S")
        )
        assert popmap.lookup(query) == ANSWERS["joe"]
        thread.join()
        popmap.close()
    return asked.decode().rstrip("\r\n").split("\r\n")


def test_request_is_what_nginx_sends(tmp_path: Path) -> None:
    """Each header once, the user in nginx's escapes, and no password."""
    query = Query("j o\r\ne%ü+", ENDS, password=b"secret")
    first, *headers = request(tmp_path, "", query)
    assert first == "GET /auth?x=1 HTTP/1.1"
    assert {header for header in headers if not header.startswith(("Host", "Accept"))} == {
        "Auth-User: j%20o%0D%0Ae%25%C3%BC+",
        "Auth-Protocol: imap",
        "Auth-Method: plain",
        "Auth-Login-Attempt: 1",
        "Client-IP: 192.0.2.1",
        "Authorization: Basic bWU6c2U6Y3JldA==",
    }
    names = [header.partition(":")[0] for header in headers]
    assert len(set(names)) == len(names)


def test_request_contains_the_configured_headers(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k e:y\n")
    more = f" Auth-Pass X-Auth-Key:@{tmp_path}/key X-From:here"
    query = Query("joe", ENDS, secure=True, attempt=3, password=b"p %\n\xff")
    assert {
        "Auth-Pass: p%20%25%0A%FF",
        "Auth-Login-Attempt: 3",
        "Auth-SSL: on",
        "X-Auth-Key: k e:y",
        "X-From: here",
    } <= set(request(tmp_path, more, query))


@pytest.mark.parametrize("word", ["Auth-Pass:", "X-Auth-Key", "X Y:z", "X-Auth-Key:ü", ":x"])
def test_http_option_with_an_unknown_word_is_refused(word: str) -> None:
    with pytest.raises(StartupError, match="after the URL, expected Auth-Pass or a header"):
        open_map(Options(map_library="http", map_library_opt=f"http://host/ {word}"))


@pytest.mark.parametrize("option", ["", "localhost", "ftp://host/", "http://", "http://host:x/"])
def test_http_option_must_be_a_url(option: str) -> None:
    with pytest.raises(StartupError, match="expected the URL of a service"):
        open_map(Options(map_library="http", map_library_opt=option))


def test_redis_name_contains_the_key() -> None:
    if reason := Redis.missing():
        pytest.skip(reason)
    with public_folder() as folder, Redis(folder) as running:
        running.load("mail/joe:north\n")
        option = f"{running.option()} perdition:mail/%s"
        popmap = open_map(Options(map_library="redis", map_library_opt=option))
        assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]
        popmap.close()


def test_redis_option_must_be_a_url() -> None:
    pytest.importorskip("redis")
    with pytest.raises(
        StartupError, match=r"expected a URL, for example redis://localhost:6379/0"
    ) as error:
        open_map(Options(map_library="redis", map_library_opt="host://:secret@here"))
    assert "secret" not in str(error.value)


@pytest.mark.usefixtures("strict_python")
def test_redis_can_use_tls() -> None:
    """The certificate must be from a trusted authority and for the right name."""
    if reason := RedisWithTLS.missing():
        pytest.skip(reason)
    with public_folder() as folder, RedisWithTLS(folder) as running:
        running.load("joe:north\n")
        plain = running.option().replace("redis://", "rediss://")
        tls = plain.replace(str(running.port), str(running.tls_port))
        known = f"{tls}?ssl_ca_certs={running.authority}"
        assert answer("redis", known) == ANSWERS["joe"]
        for bad in (tls, known.replace("127.0.0.1", "localhost")):
            with pytest.raises(MapUnavailable, match=r"(?i)certificate verify failed"):
                answer("redis", bad)


@pytest.mark.usefixtures("strict_python")
def test_service_can_use_https(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with the system's authorities."""
    if reason := AuthServiceWithTLS.missing():
        pytest.skip(reason)
    with public_folder() as folder, AuthServiceWithTLS(folder) as running:
        running.load("joe:north\n")
        option = running.option().replace("http://", "https://")
        with pytest.raises(MapUnavailable, match="certificate verify failed"):
            answer("http", option)
        monkeypatch.setenv("SSL_CERT_FILE", str(running.authority))
        assert answer("http", option) == ANSWERS["joe"]
        with pytest.raises(MapUnavailable, match="certificate verify failed"):
            answer("http", option.replace("127.0.0.1", "localhost"))


def answer(kind: str, option: str) -> Destination | None:
    """What the map has for joe."""
    popmap = open_map(Options(map_library=kind, map_library_opt=option))
    try:
        return popmap.lookup(Query("joe", ENDS))
    finally:
        popmap.close()
