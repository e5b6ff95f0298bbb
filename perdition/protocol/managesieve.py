"""ManageSieve: RFC 5804, with SASL PLAIN (RFC 4616)."""

import re
from os import fsencode

from perdition.failure import (
    ConnectedToItself,
    Failure,
    MechanismUnavailable,
    Rejected,
    TLSNotPresent,
)
from perdition.protocol import sasl
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
from perdition.protocol.strings import LITERAL, QUOTABLE, QUOTED, Grammar, Malformed, quote, unquote

LINE_LIMIT = 4096
"""Octets in a client's line without its literals."""
QUOTED_LIMIT = 1024
"""Octets in a quoted string (RFC 5804, section 4); what is longer goes in a literal."""
ANSWER_LIMIT = 65536
"""Octets in a real server's whole answer, capabilities included."""

GRAMMAR = Grammar(LINE_LIMIT, QUOTED_LIMIT, go_on=b"", atoms=False)
OUTCOME = re.compile(rb"(OK|NO|BYE)\b", re.IGNORECASE)


def shown(line: bytes) -> bytes:
    """Return a command as the log may have it: what is not known to be none may be a password."""
    name = line.partition(b" ")[0]
    if name.upper() in (b"CAPABILITY", b"NOOP", b"STARTTLS", b"LOGOUT"):
        return line
    return name + b" " + BLANK if name.upper() == b"AUTHENTICATE" else BLANK


def capabilities(terms: Terms) -> bytes:
    """Return our capabilities, a line each, with STARTTLS as it is true now."""
    listed = [word.strip() for word in terms.capability.split("  ")]
    listed = [word for word in listed if word and word.upper() != '"STARTTLS"']
    if terms.starttls:
        listed.append('"STARTTLS"')
    return fsencode("".join(f"{word}\r\n" for word in listed))


def string(text: bytes) -> bytes:
    """Return a text as a client or server of this protocol writes it."""
    if len(text) <= QUOTED_LIMIT and QUOTABLE.fullmatch(text):
        return quote(text)
    return b"{%d}\r\n%b" % (len(text), text)


class ManageSieve(Protocol):
    """The protocol to manage sieve scripts."""

    alpn = "managesieve"
    farewell = b"LOGOUT\r\n"
    idle_notice = b'BYE "idle for too long"\r\n'
    shutdown_notice = b'BYE "server is shutting down"\r\n'
    response_end = re.compile(rb"(?:\A|\n)(?:OK|NO)\b[^\r\n]*(?<!\})\r\n\Z", re.IGNORECASE)

    def own_greeting(self, hostname: str) -> bytes:
        return quote(b"ManageSieve Ready " + fsencode(hostname))

    def greeting(self, hostname: str, terms: Terms) -> bytes:
        return capabilities(terms) + b"OK " + self.own_greeting(hostname) + b"\r\n"

    def client(self, terms: Terms, secured: Terms) -> Dialogue[Credentials | None]:
        while True:
            try:
                line = yield ReadLine(LINE_LIMIT, shown)
                name, space, rest = line.partition(b" ")
                pieces = yield from GRAMMAR.read_literals(line)
                arguments = GRAMMAR.arguments([space + rest, *pieces[1:]])
                match name.upper(), arguments:
                    case b"AUTHENTICATE", [mechanism, *initial] if len(initial) < 2:
                        return (yield from self.credentials(mechanism, initial))
                    case b"CAPABILITY", []:
                        yield Write(capabilities(terms) + b'OK "done"\r\n')
                    case b"NOOP", []:
                        yield Write(b'OK "done"\r\n')
                    case b"NOOP", [tag]:
                        yield Write(b'OK (TAG %b) "done"\r\n' % string(tag))
                    case b"STARTTLS", [] if terms.starttls:
                        yield Write(b'OK "begin TLS"\r\n')
                        yield StartTLS()
                        terms = secured
                        yield Write(capabilities(terms) + b'OK "TLS begun"\r\n')
                    case b"LOGOUT", []:
                        yield Write(b'OK "see you"\r\n')
                        return None
                    case _:
                        raise Malformed("use AUTHENTICATE, CAPABILITY, NOOP or LOGOUT")
            except (Malformed, sasl.BadMessage) as reason:
                yield from refuse(b"NO %b\r\n" % quote(fsencode(str(reason))))
            except LineTooLong:
                yield Write(b'BYE "too long, closing"\r\n')
                return None

    def credentials(self, mechanism: bytes, initial: list[bytes]) -> Dialogue[Credentials]:
        """Hold the SASL exchange that AUTHENTICATE begins."""
        if mechanism.upper() != b"PLAIN":
            raise Malformed("only PLAIN is known here")
        if initial:
            return sasl.decode_plain(initial[0])
        yield Write(b'""\r\n')
        line = yield ReadLine(LINE_LIMIT, lambda _: BLANK)
        pieces = yield from GRAMMAR.read_literals(line)
        answer = GRAMMAR.arguments([b" " + pieces[0], *pieces[1:]])
        if answer == [b"*"]:
            raise Malformed("cancelled")
        if len(answer) != 1:
            raise Malformed("one string answers")
        return sasl.decode_plain(answer[0])

    def login(
        self, credentials: Credentials, own_greeting: bytes, upgrade: StartTLSPolicy
    ) -> Dialogue[Accepted]:
        announced, line = yield from self.announced("greeting")
        if line.endswith(own_greeting):
            raise ConnectedToItself("its greeting is our own")
        if upgrade is not StartTLSPolicy.NEVER:
            announced = yield from self.upgrade(upgrade, announced)
        if b"PLAIN" not in announced.get(b"SASL", b"").upper().split():
            raise MechanismUnavailable("the real server does not offer SASL PLAIN")
        self.require_sendable(
            fsencode(credentials.user), fsencode(credentials.authorisation), credentials.password
        )
        message = sasl.encode_plain(credentials)
        if len(message) <= QUOTED_LIMIT:
            argument = quote(message)
        else:
            argument = b"{%d+}\r\n%b" % (len(message), message)
        head = b'AUTHENTICATE "PLAIN" '
        yield Write(head + argument + b"\r\n", shown=head + BLANK + b"\r\n")
        _, line = yield from self.answer("AUTHENTICATE")
        if line[:2].upper() == b"OK":
            return Accepted(line)
        if line[:2].upper() == b"NO":
            raise Rejected(server_line=line)
        raise unexpected("AUTHENTICATE")

    def upgrade(
        self, upgrade: StartTLSPolicy, announced: dict[bytes, bytes]
    ) -> Dialogue[dict[bytes, bytes]]:
        """Negotiate TLS with a real server that offers it; return its capabilities after that.

        Raises TLSNotPresent if it does not and we must, NegotiationFailed if it then refuses.
        """
        if b"STARTTLS" not in announced:
            if upgrade is StartTLSPolicy.REQUIRED:
                raise TLSNotPresent("the real server does not offer STARTTLS")
            return announced
        yield Write(b"STARTTLS\r\n")
        _, line = yield from self.answer("STARTTLS")
        if line[:2].upper() != b"OK":
            raise unexpected("STARTTLS", line)
        yield StartTLS()
        announced, _ = yield from self.announced("capabilities after STARTTLS")
        return announced

    def announced(self, what: str) -> Dialogue[tuple[dict[bytes, bytes], bytes]]:
        """Read the capabilities that a real server tells unasked, and the OK behind them."""
        lines, outcome = yield from self.answer(what)
        if outcome[:2].upper() != b"OK":
            raise unexpected(what, outcome)
        return dict(capability(line) for line in lines), outcome

    def answer(self, what: str) -> Dialogue[tuple[list[bytes], bytes]]:
        """Return a real server's answer: the lines before its OK, NO or BYE, and that one."""
        lines: list[bytes] = []
        size = 0
        while size < ANSWER_LIMIT:
            line = yield from self.whole_line(what)
            if OUTCOME.match(line):
                return lines, line
            if line[:1] not in (b'"', b"{"):
                raise unexpected(what)
            lines.append(line)
            size += len(line)
        raise unexpected(f"no end of {what}")

    def whole_line(self, what: str) -> Dialogue[bytes]:
        """Return a real server's line with the literals in it."""
        line = whole = yield ReadLine(SERVER_LINE_LIMIT, redacted)
        while literal := LITERAL.search(line):
            size = int(literal[1])
            if size > ANSWER_LIMIT or len(whole) > ANSWER_LIMIT:
                raise unexpected(f"a literal too long in {what}")
            text = yield ReadExactly(size)
            line = yield ReadLine(SERVER_LINE_LIMIT, redacted)
            whole += b"\r\n" + text + line
        return whole

    def welcome(self, credentials: Credentials, accepted: Accepted, ok_line: str | None) -> bytes:
        if ok_line is None:
            return accepted.line + b"\r\n"
        return b"OK " + string(fsencode(ok_line)) + b"\r\n"

    def refusal(self, credentials: Credentials, failure: Failure, verbatim: bool) -> bytes:
        if verbatim and failure.server_line:
            return failure.server_line + b"\r\n"
        code = f"({failure.managesieve_code}) " if failure.managesieve_code else ""
        return fsencode(f'NO {code}"{failure.reply}"\r\n')


def capability(line: bytes) -> tuple[bytes, bytes]:
    """Read a capability's name, in upper case, and its value (b"" where it has none)."""
    words = []
    while line := line.lstrip(b" "):
        if quoted := QUOTED.match(line):
            words.append(unquote(quoted[1]))
            line = line[quoted.end() :]
        elif literal := re.match(rb"\{(\d+)\+?\}\r\n", line):
            end = literal.end() + int(literal[1])
            words.append(line[literal.end() : end])
            line = line[end:]
        else:
            raise unexpected("capabilities", line)
    name, value = [*words, b"", b""][:2]
    return name.upper(), value
