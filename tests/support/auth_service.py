"""An HTTP service such as nginx asks where a user's real server is.

    python3 -m tests.support.auth_service PORT FILE [CERTIFICATE KEY]

FILE has lines of ``key:value`` as makegdbm reads them; a value of ``later`` makes the service say
that it cannot tell now. A value of ``CLIENT/SERVER/value`` is for who is told the password CLIENT:
the real server is to be given SERVER, if that is not empty.
"""

import re
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    users: Path

    def do_GET(self) -> None:
        """Look up a user."""
        lines = self.users.read_text(encoding="utf-8").splitlines()
        known = {line.partition(":")[0]: line.partition(":")[2] for line in lines}
        value = known.get(self.header("Auth-User"))
        given = ""
        if value and value.count("/") == 2:
            wanted, given, value = value.split("/")
            if self.header("Auth-Pass") != wanted:
                value = None
        if value == "later":
            self.answer({"Auth-Status": "Try later", "Auth-Error-Code": "451 4.3.0"})
        elif value is None:
            self.answer({"Auth-Status": "Invalid login or password", "Auth-Wait": "3"})
        else:
            more = {"Auth-Pass": given} if given else {}
            self.answer({"Auth-Status": "OK", **headers(value), **more})

    def header(self, name: str) -> str:
        """A request header without nginx's escapes."""
        [text] = self.headers.get_all(name) or [""]
        return unquote(text, errors="surrogateescape")

    def answer(self, found: dict[str, str]) -> None:
        """Send these headers."""
        self.send_response(200)
        for name, value in found.items():
            self.send_header(name, value.encode().decode("latin-1"))  # UTF-8, as it is
        self.send_header("Content-Length", "0")
        self.end_headers()


def headers(value: str) -> dict[str, str]:
    """The response headers for ``[user@]host[:port]``."""
    found = re.fullmatch(r"(?:(.*)@)?\[?(.*?)\]?(?::(\d+))?", value)
    assert found
    named = zip(("Auth-User", "Auth-Server", "Auth-Port"), found.groups(), strict=True)
    return {name: text for name, text in named if text}


if __name__ == "__main__":
    Handler.users = Path(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    if sys.argv[3:]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[3:])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
