"""A small ManageSieve client (RFC 5804); the standard library has none."""

import base64
import re
import socket
import ssl


class SieveError(Exception):
    """The server answered NO or BYE, or closed the connection; the text is its answer."""


class SieveClient:
    """A session over a connected socket; `capabilities` are the greeting's."""

    def __init__(self, connection: socket.socket) -> None:
        self._read_capabilities(connection)

    def starttls(self, context: ssl.SSLContext, host: str) -> None:
        """STARTTLS; reads the capabilities that follow."""
        self._command(b"STARTTLS")
        self._file.close()
        self._read_capabilities(context.wrap_socket(self._socket, server_hostname=host))

    def login(self, user: str, password: str) -> None:
        """AUTHENTICATE "PLAIN" with an initial response."""
        response = base64.b64encode(f"\0{user}\0{password}".encode())
        self._command(b'AUTHENTICATE "PLAIN" "%s"' % response)

    def listscripts(self) -> list[str]:
        """The names of the scripts."""
        return [name.decode() for name, *_ in self._command(b"LISTSCRIPTS")]

    def getscript(self, name: str) -> bytes:
        [[script]] = self._command(b'GETSCRIPT "%s"' % name.encode())
        return script

    def putscript(self, name: str, script: bytes) -> None:
        self._command(b'PUTSCRIPT "%s" {%d+}\r\n%s' % (name.encode(), len(script), script))

    def logout(self) -> None:
        """LOGOUT, and close."""
        with self._socket, self._file:
            self._command(b"LOGOUT")

    def _read_capabilities(self, connection: socket.socket) -> None:
        """Read the capabilities that a server sends without being asked."""
        self._socket = connection
        self._file = connection.makefile("rb")
        lines = self._answer()
        self.capabilities = {name.decode(): b"".join(value).decode() for name, *value in lines}

    def _command(self, command: bytes) -> list[list[bytes]]:
        self._send(command)
        return self._answer()

    def _send(self, command: bytes) -> None:
        self._socket.sendall(command + b"\r\n")

    def _answer(self) -> list[list[bytes]]:
        """The strings of each line before OK; raises SieveError for NO, BYE and a closed
        connection.
        """
        lines = []
        while not re.match(rb"OK\b", line := self._file.readline(), re.IGNORECASE):
            if not line.startswith((b'"', b"{")):
                raise SieveError(line.decode().rstrip() or "the server closed the connection")
            lines.append(self._strings(line))
        self._strings(line)  # The text behind OK may be a literal too.
        return lines

    def _strings(self, line: bytes) -> list[bytes]:
        """The strings of a line, and of the lines that follow its literals."""
        strings = quoted_strings(line)
        while literal := re.search(rb"\{(\d+)\}\r\n$", line):
            strings.append(self._file.read(int(literal[1])))
            line = self._file.readline()
            strings += quoted_strings(line)
        return strings


def quoted_strings(line: bytes) -> list[bytes]:
    """The quoted strings of a line, unquoted."""
    return [
        re.sub(rb"\\(.)", rb"\1", string) for string in re.findall(rb'"((?:[^"\\]|\\.)*)"', line)
    ]
