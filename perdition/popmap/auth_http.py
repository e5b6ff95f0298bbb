"""A popmap behind HTTP, by the convention of nginx's ``auth_http``.

A site that comes from nginx keeps its service. Only the server is asked for: whether the password
is right is the real server's business, so it is not sent.
"""

from base64 import b64encode
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from os import fsencode
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.options import Options
from perdition.popmap import Destination, Query
from perdition.popmap.secret import url_with_secret
from perdition.popmap.server import ServerMap

LONGEST_BODY = 65_536

PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
"""What nginx leaves as it is in a header's value; all else is percent-encoded."""

PROTOCOLS = {
    "POP3": "pop3",
    "POP3S": "pop3",
    "IMAP4": "imap",
    "IMAP4S": "imap",
    "MANAGESIEVE": "managesieve",
}
"""What nginx calls the protocols; it does not know the last one."""


def open_map(options: Options) -> "HTTPMap":
    """Open a map behind HTTP; ``map_library_opt`` is ``url[,url...]``. Raises StartupError."""
    services = [Service.parse(url) for url in options.map_library_opt.split(",")]
    return HTTPMap(services, options)


@dataclass(frozen=True, slots=True)
class Service:
    """Where a service is, and the header that lets us in ("": none)."""

    tls: bool
    host: str
    port: int | None
    target: str
    authorization: str

    @classmethod
    def parse(cls, text: str) -> "Service":
        """Read a URL; raises StartupError."""
        url = urlsplit(url_with_secret(text))
        try:
            port = url.port
        except ValueError:
            port = -1
        if url.scheme not in ("http", "https") or not url.hostname or port == -1:
            raise StartupError("map_library_opt: give the URL of a service, http:// or https://")
        authorization = ""
        if url.username is not None:
            account = f"{unquote(url.username)}:{unquote(url.password or '')}"
            authorization = "Basic " + b64encode(fsencode(account)).decode()
        target = f"{url.path or '/'}{'?' if url.query else ''}{url.query}"
        return cls(url.scheme == "https", url.hostname, port, target, authorization)

    def __str__(self) -> str:
        return str(Endpoint(self.host, str(self.port or "")))


class Line(NamedTuple):
    """A connection to a service."""

    service: Service
    connection: HTTPConnection


class HTTPMap(ServerMap[Line]):
    """A service that answers a GET with the headers Auth-Status, Auth-Server and Auth-Port."""

    errors = (OSError, HTTPException)

    def __init__(self, services: list[Service], options: Options) -> None:
        self.services = {str(service): service for service in services}
        super().__init__(list(self.services), options)
        self.protocol = PROTOCOLS[options.service.name]

    def connect(self, server: str) -> Line:
        service = self.services[server]
        kind = HTTPSConnection if service.tls else HTTPConnection
        return Line(service, kind(service.host, service.port, timeout=self.patience))

    def ask(self, connection: Line, query: Query) -> Destination | None:
        service, http = connection
        headers = {
            "Auth-Method": "plain",
            "Auth-User": quote(fsencode(query.key), safe=PLAIN),
            "Auth-Protocol": self.protocol,
            "Client-IP": query.ends.source,
        }
        if service.authorization:
            headers["Authorization"] = service.authorization
        http.request("GET", service.target, headers=headers)
        response = http.getresponse()
        if len(response.read(LONGEST_BODY + 1)) > LONGEST_BODY:
            raise HTTPException("a body too long, where there should be none")
        return destination(response)

    def disconnect(self, connection: Line) -> None:
        connection.connection.close()


def destination(response: HTTPResponse) -> Destination | None:
    """Return what an answer says; raises HTTPException if it says that nobody can tell now.

    As for nginx, the headers count and not the status, unless they are missing.
    """
    status = response.headers.get("Auth-Status")
    if status is None:
        raise HTTPException(f"HTTP status {response.status} and no Auth-Status")
    if status != "OK":
        if response.headers.get("Auth-Error-Code", "").startswith("4"):
            raise HTTPException(status)
        return None
    server = Endpoint(
        response.headers.get("Auth-Server", ""), response.headers.get("Auth-Port", "")
    )
    return Destination(server, response.headers.get("Auth-User", ""))
