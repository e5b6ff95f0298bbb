"""An IMAP4 server with a given greeting that accepts every login."""

import socket
import socketserver
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread


class ImapStubHandler(socketserver.StreamRequestHandler):
    server: "ImapStub"

    def handle(self) -> None:
        self.wfile.write(self.server.greeting + b"\r\n")
        for line in self.rfile:
            if self.server.disconnects:
                return
            self.wfile.write(line.split()[0] + b" OK done\r\n")


class ImapStub(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, greeting: bytes, disconnects: bool, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), ImapStubHandler)
        self.greeting = greeting
        self.disconnects = disconnects
        self.tls = tls

    def get_request(self) -> tuple[socket.socket, object]:
        sock, address = super().get_request()
        return (self.tls.wrap_socket(sock, server_side=True) if self.tls else sock), address

    @property
    def option(self) -> tuple[str, str]:
        """Makes it the real server of all users."""
        return "-s", f"127.0.0.1:{self.server_address[1]}"


@contextmanager
def imap_stub(
    greeting: bytes, disconnects: bool = False, tls: ssl.SSLContext | None = None
) -> Iterator[ImapStub]:
    """Run one, which disconnects at the first command if so told."""
    with ImapStub(greeting, disconnects, tls) as found:
        serving = Thread(target=found.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield found
        finally:
            found.shutdown()
            serving.join()
