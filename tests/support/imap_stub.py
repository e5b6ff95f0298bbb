"""An IMAP4 server that greets as a test wants it, and then accepts whoever logs in."""

import socket
import socketserver
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread


class Answerer(socketserver.StreamRequestHandler):
    """Accepts whoever logs in, or leaves instead."""

    server: "Greeter"

    def handle(self) -> None:
        self.wfile.write(self.server.greeting + b"\r\n")
        for line in self.rfile:
            if self.server.leaves:
                return
            self.wfile.write(line.split()[0] + b" OK done\r\n")


class Greeter(socketserver.ThreadingTCPServer):
    """An IMAP4 server with a greeting."""

    daemon_threads = True

    def __init__(self, greeting: bytes, leaves: bool, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Answerer)
        self.greeting = greeting
        self.leaves = leaves
        self.tls = tls

    def get_request(self) -> tuple[socket.socket, object]:
        sock, address = super().get_request()
        return (self.tls.wrap_socket(sock, server_side=True) if self.tls else sock), address

    @property
    def option(self) -> tuple[str, str]:
        """What leads everybody here."""
        return "-s", f"127.0.0.1:{self.server_address[1]}"


@contextmanager
def imap_stub(
    greeting: bytes, leaves: bool = False, tls: ssl.SSLContext | None = None
) -> Iterator[Greeter]:
    """Run one, which perhaps leaves at the first command."""
    with Greeter(greeting, leaves, tls) as found:
        serving = Thread(target=found.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield found
        finally:
            found.shutdown()
            serving.join()
