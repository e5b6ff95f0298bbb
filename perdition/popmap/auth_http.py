"""A popmap behind HTTP, by the convention of nginx's ``auth_http``.

A site that comes from nginx keeps its service. Whether a password is right is the real server's
business, so the service is told it only where the site says so.
"""

import re
from base64 import b64encode
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from os import fsdecode, fsencode
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from perdition.endpoint import Endpoint
from perdition.failure import Rejected, StartupError
from perdition.options import Options
from perdition.popmap import Destination, Query
from perdition.popmap.secret import secret, url_with_secret
from perdition.popmap.server import ServerMap
from perdition.popmap.server_tls import client_context

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


PASS = "Auth-Pass"
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.+)")


def open_map(options: Options) -> "HTTPMap":
    """Open a map behind HTTP; raises StartupError.

    ``map_library_opt`` is ``url[,url...][ Auth-Pass][ header:value...]``.
    """
    urls, *words = options.map_library_opt.split() or [""]
    services = [Service.parse(url) for url in urls.split(",")]
    headers = dict(header(word) for word in words if word != PASS)
    return HTTPMap(services, headers, options, wants_password=PASS in words)


def header(word: str) -> tuple[str, str]:
    """Read a header that all requests have; raises StartupError."""
    if found := HEADER.fullmatch(word):
        text = secret(found[2])
        if text.isascii() and text.isprintable():
            return found[1], text
    raise StartupError(
        f"map_library_opt: behind the URL may stand {PASS} and headers, as X-Auth-Key:value; the "
        "value is of printable ASCII"
    )


class Service(NamedTuple):
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
    """A service that answers a GET with the headers Auth-Status, Auth-Server and Auth-Port.

    One that is told passwords says whether they are right, and may give another for the server.
    """

    errors = (OSError, HTTPException)

    def __init__(
        self,
        services: list[Service],
        headers: dict[str, str],
        options: Options,
        wants_password: bool,
    ) -> None:
        self.services = {str(service): service for service in services}
        super().__init__(list(self.services), options)
        self.wants_password = wants_password
        self.headers = {
            **headers,
            "Auth-Method": "plain",
            "Auth-Protocol": PROTOCOLS[options.service.name],
        }

    def connect(self, server: str) -> Line:
        service = self.services[server]
        if not service.tls:
            plain = HTTPConnection(service.host, service.port, timeout=self.patience)
            return Line(service, plain)
        context = client_context()
        context.set_alpn_protocols(["http/1.1"])
        return Line(
            service,
            HTTPSConnection(service.host, service.port, timeout=self.patience, context=context),
        )

    def ask(self, connection: Line, query: Query) -> Destination | None:
        service, http = connection
        headers = {
            **self.headers,
            "Auth-User": quote(fsencode(query.key), safe=PLAIN),
            "Auth-Login-Attempt": str(query.attempt),
            "Client-IP": query.ends.source,
        }
        if self.wants_password:
            headers[PASS] = quote(query.password, safe=PLAIN)
        if query.secure:
            headers["Auth-SSL"] = "on"
        if service.authorization:
            headers["Authorization"] = service.authorization
        http.request("GET", service.target, headers=headers)
        response = http.getresponse()
        if len(response.read(LONGEST_BODY + 1)) > LONGEST_BODY:
            raise HTTPException("a body too long, where there should be none")
        return self.destination(response)

    def destination(self, response: HTTPResponse) -> Destination | None:
        """Return what an answer says; raises HTTPException if it says that nobody can tell now.

        As for nginx, the headers count and not the HTTP status, unless they are missing. Raises
        Rejected if the service was told the password: nobody else is asked then.
        """
        status = value(response, "Auth-Status")
        if not status:
            raise HTTPException(f"HTTP status {response.status} and no Auth-Status")
        if status == "WAIT" or value(response, "Auth-Error-Code").startswith("4"):
            raise HTTPException(status)
        if status != "OK":
            if self.wants_password:
                raise Rejected(f"popmap: {status}")
            return None
        host = value(response, "Auth-Server").removeprefix("[").removesuffix("]")
        server = Endpoint(host, value(response, "Auth-Port"))
        password = None
        if self.wants_password:  # else one of the service's would let anybody in
            password = fsencode(value(response, PASS)) or None
        return Destination(server, value(response, "Auth-User"), password)

    def disconnect(self, connection: Line) -> None:
        connection.connection.close()


def value(response: HTTPResponse, name: str) -> str:
    """Return a header's value; "" if there is none. http.client takes it for Latin-1."""
    return fsdecode(response.headers.get(name, "").encode("latin-1"))
