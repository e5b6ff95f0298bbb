"""A popmap over HTTP with the protocol of nginx's ``auth_http``.

The service gets the password only with the option's ``Auth-Pass``.
"""

import re
from base64 import b64encode
from collections.abc import Hashable
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from os import fsdecode, fsencode
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from perdition.endpoint import Endpoint
from perdition.failure import Rejected, StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, Query
from perdition.popmap.secret import secret, url_with_secret
from perdition.popmap.server import ServerMap
from perdition.popmap.server_tls import client_context
from perdition.protocol.dialogue import Credentials
from perdition.protocol.refusals import repeats_password

MAX_BODY = 65_536
MAX_REPLY_LENGTH = 400
"""Maximum characters of an Auth-Status in a reply; a POP3 reply has 512 bytes (RFC 2449)."""

PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
"""What nginx does not percent-encode in a header's value."""

REPEATS = "the answer repeats the password"
"""Logged instead of a text that must reach neither the log nor the client."""

PASS = "Auth-Pass"
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.+)")


def open_map(options: Options) -> "HTTPMap":
    """Open a map over HTTP; raises StartupError.

    ``map_library_opt`` is ``url[,url...][ Auth-Pass][ header:value...]``.
    """
    urls, *words = options.map_library_opt.split() or [""]
    services = [AuthServer.parse(url) for url in urls.split(",")]
    headers = dict(header(word) for word in words if word != PASS)
    return HTTPMap(services, headers, options, wants_password=PASS in words)


def header(word: str) -> tuple[str, str]:
    """Read a header for all requests; raises StartupError."""
    if match := HEADER.fullmatch(word):
        text = secret(match[2])
        if printable_ascii(text):
            return match[1], text
    raise StartupError(
        f"map_library_opt: after the URL, expected {PASS} or a header such as X-Auth-Key:value "
        "with printable ASCII characters"
    )


class TemporaryFailure(HTTPException):
    """The service cannot answer now; the text is for the client."""


def printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()


class AuthServer(NamedTuple):
    """The address of a service, and the value of its Authorization header ("": none)."""

    tls: bool
    host: str
    port: int | None
    target: str
    authorization: str

    @classmethod
    def parse(cls, text: str) -> "AuthServer":
        """Read a URL; raises StartupError."""
        try:
            url = urlsplit(url_with_secret(text))
            port = url.port
            host = (url.hostname or "").encode("idna").decode()
        except ValueError:
            host = ""
        if not host or url.scheme not in ("http", "https") or not printable_ascii(text):
            raise StartupError(
                "map_library_opt: expected the URL of a service, http:// or https://, "
                "with printable ASCII characters only"
            )
        authorization = ""
        if url.username is not None:
            account = f"{unquote(url.username)}:{unquote(url.password or '')}"
            authorization = "Basic " + b64encode(fsencode(account)).decode()
        target = f"{url.path or '/'}{'?' if url.query else ''}{url.query}"
        return cls(url.scheme == "https", host, port, target, authorization)

    def __str__(self) -> str:
        return str(Endpoint(self.host, str(self.port or "")))


class ServiceConnection(NamedTuple):
    service: AuthServer
    connection: HTTPConnection


class HTTPMap(ServerMap[ServiceConnection]):
    """A service that answers a GET with the headers Auth-Status, Auth-Server and Auth-Port.

    With ``Auth-Pass`` the service verifies the password and may return another one for the server.
    """

    errors = (OSError, HTTPException)

    def __init__(
        self,
        services: list[AuthServer],
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
            "Auth-Protocol": options.service.protocol.alpn,
        }

    def connect(self, server: str) -> ServiceConnection:
        service = self.services[server]
        if not service.tls:
            plain = HTTPConnection(service.host, service.port, timeout=self.server_timeout)
            return ServiceConnection(service, plain)
        context = client_context()
        context.set_alpn_protocols(["http/1.1"])
        return ServiceConnection(
            service,
            HTTPSConnection(
                service.host, service.port, timeout=self.server_timeout, context=context
            ),
        )

    def ask(self, connection: ServiceConnection, query: Query) -> Destination | None:
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
        try:
            http.request("GET", service.target, headers=headers)
            response = http.getresponse()
            if len(response.read(MAX_BODY + 1)) > MAX_BODY:
                raise HTTPException(f"body of more than {MAX_BODY} bytes")
            return self.destination(response)
        except HTTPException as error:
            if repeats(str(error), query):
                raise HTTPException(REPEATS) from None
            raise
        except Rejected as failure:
            if repeats(failure.detail, query):
                raise Rejected(f"popmap: {REPEATS}") from None
            raise

    def destination(self, response: HTTPResponse) -> Destination | None:
        """Return an answer's destination; raises HTTPException for a temporary failure.

        As in nginx, the HTTP status is ignored if the headers are there. Raises Rejected if the
        service verifies passwords: no other server is used then.
        """
        status = value(response, "Auth-Status")
        if not status:
            raise HTTPException(f"HTTP status {response.status} without Auth-Status")
        if status == "WAIT":
            raise HTTPException(status)
        if value(response, "Auth-Error-Code").startswith("4"):
            raise TemporaryFailure(status)
        if status != "OK":
            if self.wants_password:
                raise Rejected(f"popmap: {status}", reply=reply_text(status))
            return None
        host = value(response, "Auth-Server").removeprefix("[").removesuffix("]")
        server = Endpoint(host, value(response, "Auth-Port"))
        password = None
        if self.wants_password:  # otherwise any client password would be accepted
            password = fsencode(value(response, PASS)) or None
        return Destination(server, value(response, "Auth-User"), password)

    def cache_key(self, query: Query) -> Hashable:
        return query.key, query.ends.source, query.secure, query.attempt

    def reply(self, error: Exception) -> str:
        return reply_text(str(error)) if isinstance(error, TemporaryFailure) else ""

    def disconnect(self, connection: ServiceConnection) -> None:
        connection.connection.close()


def repeats(text: str, query: Query) -> bool:
    """Return whether a text contains the query's password, as it is or as in a header."""
    forms = (query.password, quote(query.password, safe=PLAIN).encode())
    return any(repeats_password(fsencode(text), Credentials(query.key, form)) for form in forms)


def reply_text(status: str) -> str:
    """Return an Auth-Status as one line of a reply to a client."""
    return "".join(char if char.isprintable() else " " for char in status[:MAX_REPLY_LENGTH])


def value(response: HTTPResponse, name: str) -> str:
    """Return a header's value, or "". http.client decodes it as Latin-1."""
    return fsdecode(response.headers.get(name, "").encode("latin-1"))
