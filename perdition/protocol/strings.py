"""Quoted strings and literals of IMAP4 (RFC 3501, 7888) and ManageSieve (RFC 5804)."""

import re
from typing import NamedTuple

from perdition.protocol.dialogue import (
    REDACTED,
    Dialogue,
    LineTooLong,
    ReadExactly,
    ReadLine,
    Write,
)

LITERAL_LIMIT = 16384
"""Maximum bytes in a literal of a client; names and passwords are far shorter."""

COMMAND_LITERALS = 64
"""Maximum literals in a command of a client: ID may have 30 pairs of them (RFC 2971)."""

COMMAND_LIMIT = 65536
"""Maximum bytes in a command of a client, literals included. ID may have 30 pairs of 30 and 1,024
bytes, many of them escaped."""

LITERAL = re.compile(rb"(?:^|(?<=[ (]))\{(\d{1,20})(\+?)\}$")
QUOTED = re.compile(rb'"((?:[^"\\\r\n\0]|\\[^\r\n\0])*)"')
"""A backslash that precedes neither a quote nor a backslash stands for itself: "DOMAIN\\user"."""
QUOTABLE = re.compile(rb"[^\r\n\0\x80-\xff]*")
ATOM = re.compile(rb'[^ "\0-\x1f\x7f][^ \0-\x1f\x7f]*')


class Malformed(Exception):
    """A client's command is invalid; the text is the reason, for the client."""


class Grammar(NamedTuple):
    """How the clients of a protocol write arguments.

    ``continuation`` requests a synchronizing literal (b"": the protocol has none). ``atoms`` says
    whether arguments may be unquoted.
    """

    line_limit: int
    quoted_limit: int
    continuation: bytes
    atoms: bool

    def read_literals(self, line: bytes) -> Dialogue[list[bytes]]:
        """Read the literals of a command, and the lines between them.

        Returns all pieces of the command, in order. Raises Malformed for a literal that is too long
        but was not sent yet, and LineTooLong if the rest of the input cannot be parsed.
        """
        pieces = [line]
        while literal := LITERAL.search(pieces[-1]):
            size, waits = int(literal[1]), self.continuation and not literal[2]
            if size > LITERAL_LIMIT and waits:
                raise Malformed(f"a literal may have at most {LITERAL_LIMIT} bytes")
            total = sum(map(len, pieces)) + size
            if size > LITERAL_LIMIT or total > COMMAND_LIMIT or len(pieces) > 2 * COMMAND_LITERALS:
                raise LineTooLong
            if waits:
                yield Write(self.continuation)
            pieces.append((yield ReadExactly(size)))
            pieces.append((yield ReadLine(self.line_limit, lambda _: REDACTED)))
        return pieces

    def arguments(self, pieces: list[bytes]) -> list[bytes]:
        """Return a command's arguments; the first piece starts after its name.

        Raises Malformed.
        """
        if any(b"\0" in piece for piece in pieces):
            raise Malformed("a command must not contain NUL")
        arguments = []
        rest, *more = pieces
        while rest.strip(b" ") or more:
            if not rest.startswith(b" "):
                raise Malformed("expected one space between arguments")
            rest = rest[1:]
            if more and LITERAL.fullmatch(rest):
                text, rest, *more = more
            else:
                text, rest = self.cut_argument(rest)
            arguments.append(text)
        return arguments

    def cut_argument(self, rest: bytes) -> tuple[bytes, bytes]:
        """Split a line into its first argument, unquoted, and the rest."""
        if quoted := QUOTED.match(rest):
            if len(quoted[1]) > self.quoted_limit:
                raise Malformed(f"a quoted string may have at most {self.quoted_limit} bytes")
            return unquote(quoted[1]), rest[quoted.end() :]
        if self.atoms and (atom := ATOM.match(rest)):
            return atom[0], rest[atom.end() :]
        raise Malformed("expected a string")


def unquote(text: bytes) -> bytes:
    """Return the content of a quoted string without its escapes."""
    return re.sub(rb'\\(["\\])', rb"\1", text)


def quote(text: bytes) -> bytes:
    """Return a text as a quoted string; it must match QUOTABLE."""
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", text) + b'"'
