"""Quoted strings and literals, as IMAP4 (RFC 3501, 7888) and ManageSieve (RFC 5804) spell them."""

import re
from dataclasses import dataclass

from perdition.protocol.dialogue import (
    BLANK,
    Dialogue,
    LineTooLong,
    Write,
    read_exactly,
    read_line,
)

LITERAL_LIMIT = 16384
"""Octets in one literal of a client; names and passwords are far shorter."""

LITERAL = re.compile(rb"\{(\d{1,20})(\+?)\}$")
QUOTED = re.compile(rb'"((?:[^"\\\r\n\0]|\\["\\])*)"')
QUOTABLE = re.compile(rb"[^\r\n\0\x80-\xff]*")
ATOM = re.compile(rb'[^ "\0-\x1f\x7f][^ \0-\x1f\x7f]*')


class Malformed(Exception):
    """What a client sent is no command of its protocol; the text tells it why."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """How one protocol's clients write their arguments.

    ``go_on`` invites a literal that waits for an invitation (b"": none does), ``atoms`` tells
    whether words may stand without quotes.
    """

    line_limit: int
    quoted_limit: int
    go_on: bytes
    atoms: bool

    def read_arguments(self, rest: bytes) -> Dialogue[list[bytes]]:
        """Read what follows a command's name on its line, and the literals behind that line.

        Raises Malformed, and LineTooLong where what follows can no longer be understood.
        """
        found = []
        while rest:
            if not rest.startswith(b" "):
                raise Malformed("one space goes between arguments")
            rest = rest[1:]
            if literal := LITERAL.match(rest):
                found.append((yield from self.read_literal(literal)))
                rest = yield from self.read_rest()
            else:
                text, rest = self.cut_argument(rest)
                found.append(text)
        return found

    def skip_arguments(self, rest: bytes) -> Dialogue[None]:
        """Read arguments that nobody looks at."""
        while literal := LITERAL.search(rest):
            yield from self.read_literal(literal)
            rest = yield from self.read_rest()

    def read_rest(self) -> Dialogue[bytes]:
        """Read the line that goes on behind a literal; it may well be a password."""
        return (yield from read_line(self.line_limit, lambda _: BLANK))

    def read_literal(self, literal: re.Match[bytes]) -> Dialogue[bytes]:
        """Read the octets that a literal's head announces."""
        size, waits = int(literal[1]), self.go_on and not literal[2]
        if size > LITERAL_LIMIT:
            if waits:
                raise Malformed(f"a literal holds at most {LITERAL_LIMIT} octets")
            raise LineTooLong
        if waits:
            yield Write(self.go_on)
        text = yield from read_exactly(size)
        if b"\0" in text:
            yield from read_line(self.line_limit, lambda _: BLANK)
            raise Malformed("a literal must not hold a NUL")
        return text

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
