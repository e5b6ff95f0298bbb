"""IMAP4: RFC 3501, with LITERAL+ (RFC 7888), ID (RFC 2971) and response codes (RFC 5530)."""

import re
from os import fsdecode, fsencode

from perdition.failure import (
    ConnectedToItself,
    Failure,
    MechanismUnavailable,
    Rejected,
    TLSNotPresent,
)
from perdition.protocol.base import SERVER_LINE_LIMIT, Protocol, unexpected
from perdition.protocol.dialogue import (
    BLANK,
    Accepted,
    Credentials,
    Dialogue,
    LineTooLong,
    ReadExactly,
    ReadLine,
    StartTLS,
    StartTLSPolicy,
    Terms,
    Write,
    redacted,
    refuse,
)
from perdition.protocol.strings import LITERAL, QUOTABLE, Grammar, Malformed, quote

LINE_LIMIT = 8192
"""Octets in a client's line without its literals (RFC 7162, section 4)."""
UNTAGGED_LIMIT = 65536
"""Octets in all that a real server may say before its answer to a command."""
QUOTED_LIMIT = 1000
"""Octets in a quoted string that we send; some servers read no longer lines."""
LITERAL_MINUS_LIMIT = 4096
"""Octets in a literal that LITERAL- lets us send without being invited (RFC 7888)."""

GRAMMAR = Grammar(LINE_LIMIT, quoted_limit=LINE_LIMIT, go_on=b"+ go on\r\n", atoms=True)
TAG = re.compile(rb'(?!\+)[^\0-\x20\x7f-\xff(){%*"\\\]]+')
CAPABILITY_CODE = re.compile(rb"\[CAPABILITY ([^\]\r\n]*)\]", re.IGNORECASE)
OUR_TAG = b"perdition"
UNTAGGED = b"*"


def shown(line: bytes) -> bytes:
    """Return a command as the log may have it: what is not known to be none may be a password."""
    tag, _, rest = line.partition(b" ")
    name = rest.partition(b" ")[0]
    if name.upper() in (b"CAPABILITY", b"NOOP", b"ID", b"STARTTLS", b"LOGOUT"):
        return line
    return b" ".join((tag, name, BLANK)) if name.upper() == b"LOGIN" else BLANK


def capability(terms: Terms) -> bytes:
    """Return the manual's string with STARTTLS and LOGINDISABLED as they are true now."""
    listed = re.sub(r"(?<!\S)STARTTLS(?!\S) ?", "", terms.capability).rstrip(" ")
    if terms.starttls:
        listed += " STARTTLS"
    if terms.login_disabled and "LOGINDISABLED" not in listed.split():
        listed += " LOGINDISABLED"
    return fsencode(listed)


RESPONSE_END = re.compile(
    rb"(?:\A|\n)"
    rb"(?:\* (?:OK|NO|BAD|FLAGS|STATUS|VANISHED|[0-9]+ [A-Z]+)|[^ \r\n*+]+ (?:OK|NO|BAD))\b"
    rb"[^\r\n]*(?<!\})\r\n\Z"
    rb"|\A\+[^\r\n]*\r\n\Z",  # as after IDLE; in a literal, + may begin a line of a patch
    re.IGNORECASE,
)
"""A response that may be the last one for a while."""


class IMAP4(Protocol):
    """The Internet Message Access Protocol."""

    alpn = "imap"
    farewell = OUR_TAG + b" LOGOUT\r\n"
    idle_notice = b"* BYE idle for too long\r\n"
    shutdown_notice = b"* BYE server is shutting down\r\n"
    response_end = RESPONSE_END
    unsendable = b"\0"  # CR and LF go in a literal

    def own_greeting(self, hostname: str) -> bytes:
        return b"IMAP4 Ready " + fsencode(hostname)

    def greeting(self, hostname: str, terms: Terms) -> bytes:
        return b"* OK [CAPABILITY %b] %b\r\n" % (capability(terms), self.own_greeting(hostname))

    def client(self, terms: Terms, secured: Terms) -> Dialogue[Credentials | None]:
        while True:
            tag = UNTAGGED
            try:
                line = yield ReadLine(LINE_LIMIT, shown)
                tag, name, rest = self.cut_command(line)
                pieces = yield from GRAMMAR.read_literals(line)
                match name:
                    case _ if tag == UNTAGGED:
                        raise Malformed("a command begins with a tag")
                    case b"LOGIN":
                        return self.credentials(tag, [rest, *pieces[1:]])
                    case b"CAPABILITY" if not rest:
                        listed = capability(terms)
                        yield Write(b"* CAPABILITY %b\r\n%b OK done\r\n" % (listed, tag))
                    case b"NOOP" if not rest:
                        yield Write(tag + b" OK done\r\n")
                    case b"ID" if rest:
                        yield Write(b'* ID ("name" "perdition")\r\n%b OK done\r\n' % tag)
                    case b"STARTTLS" if terms.starttls and not rest:
                        yield Write(tag + b" OK begin TLS\r\n")
                        yield StartTLS()
                        terms = secured
                    case b"LOGOUT" if not rest:
                        yield Write(b"* BYE see you\r\n%b OK done\r\n" % tag)
                        return None
                    case b"AUTHENTICATE":
                        yield Write(tag + b" NO [CANNOT] only LOGIN is known here\r\n")
                    case _:
                        raise Malformed("use LOGIN, CAPABILITY, ID, NOOP or LOGOUT")
            except Malformed as reason:
                answer = b" BAD %b\r\n" % fsencode(str(reason))
                yield from refuse(tag + answer, shown=BLANK + answer)
            except LineTooLong:
                yield Write(b"* BYE too long, closing\r\n")
                return None

    def cut_command(self, line: bytes) -> tuple[bytes, bytes, bytes]:
        """Divide a line into tag, name in upper case, and the rest with its leading space.

        What can be no tag is UNTAGGED.
        """
        tag, _, command = line.partition(b" ")
        name, space, arguments = command.partition(b" ")
        return tag if TAG.fullmatch(tag) else UNTAGGED, name.upper(), space + arguments

    def credentials(self, tag: bytes, pieces: list[bytes]) -> Credentials:
        """Return the arguments of LOGIN: a user name that is not empty, and a password."""
        arguments = GRAMMAR.arguments(pieces)
        if len(arguments) != 2 or not arguments[0]:
            raise Malformed("use LOGIN user password")
        user, password = arguments
        return Credentials(fsdecode(user), password, tag=tag)

    def login(
        self, credentials: Credentials, own_greeting: bytes, upgrade: StartTLSPolicy
    ) -> Dialogue[Accepted]:
        greeting = yield ReadLine(SERVER_LINE_LIMIT)
        if greeting.endswith(b" " + own_greeting):
            raise ConnectedToItself("its greeting is our own")
        if greeting[:5].upper() != b"* OK ":
            raise unexpected("greeting", greeting)
        announced = yield from self.announced(greeting)
        if upgrade is not StartTLSPolicy.NEVER:
            announced = yield from self.upgrade(upgrade, announced)
        if b"LOGINDISABLED" in announced:
            raise MechanismUnavailable("the real server announces LOGINDISABLED")
        user, password = fsencode(credentials.user), credentials.password
        self.require_sendable(user, password)
        untagged = yield from self.send_login(user, password, announced)
        line, more = yield from self.answer()
        if not positive(line):
            raise Rejected(server_line=line, untagged=untagged + more)
        return Accepted(line, untagged + more)

    def announced(self, line: bytes = b"") -> Dialogue[set[bytes]]:
        """Return the capabilities that a real server's line tells; ask for them if it has none.

        A server that does not tell could have LOGINDISABLED, and must then not get a password.
        """
        if code := CAPABILITY_CODE.search(line):
            return set(code[1].upper().split())
        yield Write(OUR_TAG + b" CAPABILITY\r\n")
        line, untagged = yield from self.answer()
        listed = re.search(rb"^\* CAPABILITY (.*)\r$", untagged, re.IGNORECASE | re.MULTILINE)
        if not positive(line) or not listed:
            raise unexpected("CAPABILITY", line)
        return set(listed[1].upper().split())

    def upgrade(self, upgrade: StartTLSPolicy, announced: set[bytes]) -> Dialogue[set[bytes]]:
        """Negotiate TLS with a real server that offers it; return its capabilities after that.

        Raises TLSNotPresent if it does not and we must, NegotiationFailed if it then refuses.
        """
        if b"STARTTLS" not in announced:
            if upgrade is StartTLSPolicy.REQUIRED:
                raise TLSNotPresent("the real server does not offer STARTTLS")
            return announced
        yield Write(OUR_TAG + b" STARTTLS\r\n")
        line, _ = yield from self.answer()
        if not positive(line):
            raise unexpected("STARTTLS", line)
        yield StartTLS()
        return (yield from self.announced())

    def send_login(self, user: bytes, password: bytes, announced: set[bytes]) -> Dialogue[bytes]:
        """Send LOGIN in as few round trips as the capabilities allow; return untagged answers."""
        command, untagged = OUR_TAG + b" LOGIN", b""
        quoted = all(
            len(text) <= QUOTED_LIMIT and QUOTABLE.fullmatch(text) for text in (user, password)
        )
        for text in (user, password):
            if quoted:
                command += b" " + quote(text)
            elif uninvited(len(text), announced):
                command += b" {%d+}\r\n%b" % (len(text), text)
            else:
                command += b" {%d}\r\n" % len(text)
                yield Write(command, shown=OUR_TAG + b" LOGIN " + BLANK + b"\r\n")
                untagged += yield from self.invitation()
                command = text
        yield Write(command + b"\r\n", shown=OUR_TAG + b" LOGIN " + BLANK + b"\r\n")
        return untagged

    def invitation(self) -> Dialogue[bytes]:
        """Await the ``+`` that invites a literal; return the untagged answers before it."""
        untagged = b""
        while True:
            line = yield ReadLine(SERVER_LINE_LIMIT, redacted)
            if line.startswith(b"+"):
                return untagged
            if line.startswith(OUR_TAG + b" "):
                raise Rejected(server_line=line[len(OUR_TAG) + 1 :], untagged=untagged)
            untagged = yield from self.with_untagged(untagged, line)

    def answer(self) -> Dialogue[tuple[bytes, bytes]]:
        """Return the tagged answer to our command, without tag, and the untagged ones before."""
        untagged = b""
        while True:
            line = yield ReadLine(SERVER_LINE_LIMIT, redacted)
            if line.startswith(OUR_TAG + b" "):
                return line[len(OUR_TAG) + 1 :], untagged
            untagged = yield from self.with_untagged(untagged, line)

    def with_untagged(self, untagged: bytes, line: bytes) -> Dialogue[bytes]:
        """Return the untagged answers with one more, whole with its literals.

        Raises NegotiationFailed for anything else, for BYE, and when they are too many.
        """
        if not line.startswith(b"* ") or line[2:6].upper().strip() == b"BYE":
            raise unexpected("neither an untagged answer nor the tagged one")
        untagged += line + b"\r\n"
        while literal := LITERAL.search(line):
            size = int(literal[1])
            if len(untagged) + size > UNTAGGED_LIMIT:
                break
            untagged += yield ReadExactly(size)
            line = yield ReadLine(SERVER_LINE_LIMIT, redacted)
            untagged += line + b"\r\n"
        if len(untagged) > UNTAGGED_LIMIT or literal:
            raise unexpected("no end of untagged answers")
        return untagged

    def welcome(self, credentials: Credentials, accepted: Accepted, ok_line: str | None) -> bytes:
        if ok_line is None:
            line = accepted.line
        else:
            code = CAPABILITY_CODE.search(accepted.line)
            line = b"OK %b%b" % (code[0] + b" " if code else b"", fsencode(ok_line))
        return accepted.untagged + credentials.tag + b" " + line + b"\r\n"

    def refusal(self, credentials: Credentials, failure: Failure, verbatim: bool) -> bytes:
        line = failure.server_line
        if not (verbatim and line):
            code = f"[{failure.imap4_code}] " if failure.imap4_code else ""
            line = fsencode(f"NO {code}{failure.reply}")
        return failure.untagged + credentials.tag + b" " + line + b"\r\n"


def uninvited(size: int, announced: set[bytes]) -> bool:
    """Tell whether a literal of that size may be sent without waiting for an invitation."""
    return b"LITERAL+" in announced or (b"LITERAL-" in announced and size <= LITERAL_MINUS_LIMIT)


def positive(line: bytes) -> bool:
    """Tell whether a tagged answer, of which the tag is cut off, says yes."""
    return line.partition(b" ")[0].upper() == b"OK"
