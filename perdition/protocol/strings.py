"""Quoted strings and literals, as IMAP4 (RFC 3501, 7888) and ManageSieve (RFC 5804) spell them."""

import re
from typing import NamedTuple

from perdition.protocol.dialogue import BLANK, Dialogue, LineTooLong, ReadExactly, ReadLine, Write

LITERAL_LIMIT = 16384
"""Octets in one literal of a client; names and passwords are far shorter."""

COMMAND_LITERALS = 16
"""Literals in one command of a client; no command of ours takes more than two."""

LITERAL = re.compile(rb"(?:^|(?<=[ (]))\{(\d{1,20})(\+?)\}$")
QUOTED = re.compile(rb'"((?:[^"\\\r\n\0]|\\["\\])*)"')
QUOTABLE = re.compile(rb"[^\r\n\0\x80-\xff]*")
ATOM = re.compile(rb'[^ "\0-\x1f\x7f][^ \0-\x1f\x7f]*')


class Malformed(Exception):
    """What a client sent is no command of its protocol; the text tells it why."""


class Grammar(NamedTuple):
    """How one protocol's clients write their arguments.

    ``go_on`` invites a literal that waits for an invitation (b"": none does), ``atoms`` tells
    whether words may stand without quotes.
    """

    line_limit: int
    quoted_limit: int
    go_on: bytes
    atoms: bool

    def read_literals(self, line: bytes) -> Dialogue[list[bytes]]:
        """Read what belongs to a command beyond its first line: literals, and lines between them.

        Returns all of its pieces, in order. Raises Malformed for a literal that is too long and not
        yet sent, and LineTooLong where what follows can no longer be understood.
        """
        pieces = [line]
        while literal := LITERAL.search(pieces[-1]):
            size, waits = int(literal[1]), self.go_on and not literal[2]
            if size > LITERAL_LIMIT and waits:
                raise Malformed(f"a literal holds at most {LITERAL_LIMIT} octets")
            if size > LITERAL_LIMIT or len(pieces) > 2 * COMMAND_LITERALS:
                raise LineTooLong
            if waits:
                yield Write(self.go_on)
            pieces.append((yield ReadExactly(size)))
            pieces.append((yield ReadLine(self.line_limit, lambda _: BLANK)))
        return pieces

    def arguments(self, pieces: list[bytes]) -> list[bytes]:
        """Return a command's arguments; its first piece begins behind its name.

        Raises Malformed.
        """
        if any(b"\0" in piece for piece in pieces):
            raise Malformed("a command must not hold a NUL")
        found = []
        rest, *more = pieces
        while rest:
            if not rest.startswith(b" "):
                raise Malformed("one space goes between arguments")
            rest = rest[1:]
            if more and LITERAL.fullmatch(rest):
                text, rest, *more = more
            else:
                text, rest = self.cut_argument(rest)
            found.append(text)
        return found

    def cut_argument(self, rest: bytes) -> tuple[bytes, bytes]:
        """Divide a line into its first argument, unquoted, and what follows it."""
        if quoted := QUOTED.match(rest):
            if len(quoted[1]) > self.quoted_limit:
                raise Malformed(f"a quoted string holds at most {self.quoted_limit} octets")
            return unquote(quoted[1]), rest[quoted.end() :]
        if self.atoms and (atom := ATOM.match(rest)):
            return atom[0], rest[atom.end() :]
        raise Malformed("an argument is missing, or is no string")


def unquote(text: bytes) -> bytes:
    """Return what stands between quotes, without its escapes."""
    return re.sub(rb"\\(.)", rb"\1", text)


def quote(text: bytes) -> bytes:
    """Return a text between quotes; it must be QUOTABLE."""
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", text) + b'"'
