"""ManageSieve: RFC 5804, with SASL PLAIN (RFC 4616)."""

import re
from os import fsdecode, fsencode

from perdition.failure import (
    ConnectedToItself,
    Failure,
    MechanismUnavailable,
    ServerTLSNotPresent,
)
from perdition.protocol import sasl
from perdition.protocol.base import SERVER_LINE_LIMIT, Protocol, unexpected
from perdition.protocol.dialogue import (
    REDACTED,
    Accepted,
    AwaitInput,
    Credentials,
    Dialogue,
    LineTooLong,
    LoginOffer,
    ReadExactly,
    ReadLine,
    StartTLS,
    StartTLSPolicy,
    Write,
    redact_reply,
    refuse,
)
from perdition.protocol.refusals import FORWARDED_LENGTH, printable_text, refused, refused_greeting
from perdition.protocol.strings import LITERAL, QUOTABLE, QUOTED, Grammar, Malformed, quote, unquote

LINE_LIMIT = 4096
"""Maximum bytes in a client's line, literals not included."""
QUOTED_LIMIT = 1024
"""Maximum bytes in a quoted string (RFC 5804, section 4); longer text is sent as a literal."""
ANSWER_LIMIT = 65536
"""Maximum bytes in a real server's response, capabilities included."""

UNSOLICITED_SECONDS = 5.0
"""Seconds that a real server has to send its capabilities after STARTTLS; old ones never do."""

GRAMMAR = Grammar(LINE_LIMIT, QUOTED_LIMIT, continuation=b"", atoms=False)
OUTCOME = re.compile(rb"(OK|NO|BYE)\b", re.IGNORECASE)
OUTCOME_LITERAL = re.compile(rb"\w+ (?:\((?:[^\"()]|\"[^\"]*\")*\)? ?)?\{\d+\+?\}$", re.IGNORECASE)
"""An outcome whose text, or a part of its response code, is a literal."""
LITERAL_HEAD = re.compile(rb"\{(\d+)\+?\}\r\n")
SASL = re.compile(rb'"SASL"(?: "([^"]*)")?', re.IGNORECASE)
REFUSAL = re.compile(rb"(NO|BYE)\b(?: \(([^ )/]{1,100})(?:[ /][^)]*)?\))?", re.IGNORECASE)


def redact_command(line: bytes) -> bytes:
    """Return a command as it may be logged; everything unknown could be a password."""
    name = line.partition(b" ")[0]
    if name.upper() in (b"CAPABILITY", b"NOOP", b"STARTTLS", b"LOGOUT"):
        return line
    return name + b" " + REDACTED if name.upper() == b"AUTHENTICATE" else REDACTED


def capabilities(offer: LoginOffer) -> bytes:
    """Return our capabilities, one per line, with STARTTLS and SASL as they apply now."""
    listed = [word.strip() for word in offer.capability.split("  ")]
    listed = [word for word in listed if word and word.upper() != '"STARTTLS"']
    if offer.login_disabled:
        listed = ['"SASL" ""' if word.upper().startswith('"SASL"') else word for word in listed]
    if offer.starttls:
        listed.append('"STARTTLS"')
    return fsencode("".join(f"{word}\r\n" for word in listed))


def string(text: bytes) -> bytes:
    """Return a text as a quoted string if possible, otherwise as a literal."""
    if len(text) <= QUOTED_LIMIT and QUOTABLE.fullmatch(text):
        return quote(text)
    return b"{%d}\r\n%b" % (len(text), text)


class ManageSieve(Protocol):
    capability_option = "managesieve_capability"
    alpn = "managesieve"
    logout_command = b"LOGOUT\r\n"
    response_end = re.compile(rb"(?:\A|\n)(?:OK|NO)\b[^\r\n]*(?<!\})\r\n\Z", re.IGNORECASE)
    unsendable = b"\r\n\0"

    def own_greeting(self, hostname: str) -> bytes:
        return quote(b"ManageSieve Ready " + fsencode(hostname))

    def greeting(self, hostname: str, offer: LoginOffer) -> bytes:
        return capabilities(offer) + b"OK " + self.own_greeting(hostname) + b"\r\n"

    def refused_mechanisms(self, capability: str) -> list[str]:
        listed = SASL.search(fsencode(capability))
        names = fsdecode(listed[1] or b"").split() if listed else []
        return [f"SASL {name}" for name in names if name.upper() != "PLAIN"]

    def closing_notice(self, reason: str, *, temporary: bool = False) -> bytes:
        code = b"(TRYLATER) " if temporary else b""
        return b"BYE %b%b\r\n" % (code, quote(fsencode(reason)))

    def client_dialogue(
        self, offer: LoginOffer, offer_after_tls: LoginOffer
    ) -> Dialogue[Credentials | None]:
        while True:
            try:
                line = yield ReadLine(LINE_LIMIT, redact_command)
                name, space, rest = line.partition(b" ")
                pieces = yield from GRAMMAR.read_literals(line)
                arguments = GRAMMAR.arguments([space + rest, *pieces[1:]])
                match name.upper(), arguments:
                    case b"AUTHENTICATE", [_] if offer.login_disabled:
                        return Credentials("", b"")
                    case b"AUTHENTICATE", [mechanism, *initial] if len(initial) < 2:
                        return (yield from self.credentials(mechanism, initial))
                    case b"CAPABILITY", []:
                        yield Write(capabilities(offer) + b'OK "done"\r\n')
                    case b"NOOP", []:
                        yield Write(b'OK "done"\r\n')
                    case b"NOOP", [tag]:
                        yield Write(b'OK (TAG %b) "done"\r\n' % string(tag))
                    case b"STARTTLS", [] if offer.starttls:
                        yield Write(b'OK "begin TLS"\r\n')
                        yield StartTLS()
                        offer = offer_after_tls
                        yield Write(capabilities(offer) + b'OK "TLS begun"\r\n')
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
        """Run the SASL exchange of AUTHENTICATE; raises Malformed, BadMessage."""
        if mechanism.upper() != b"PLAIN":
            raise Malformed("only the mechanism PLAIN is supported")
        if initial:
            return sasl.decode_plain(initial[0])
        yield Write(b'""\r\n')
        line = yield ReadLine(LINE_LIMIT, lambda _: REDACTED)
        pieces = yield from GRAMMAR.read_literals(line)
        reply = GRAMMAR.arguments([b" " + pieces[0], *pieces[1:]])
        if reply == [b"*"]:
            raise Malformed("authentication cancelled")
        if len(reply) != 1:
            raise Malformed("expected one string")
        return sasl.decode_plain(reply[0])

    def server_dialogue(
        self, credentials: Credentials, own_greeting: bytes, start_tls: StartTLSPolicy
    ) -> Dialogue[Accepted]:
        lines, line = yield from self.response("greeting")
        if refusal := REFUSAL.match(line):
            code = refusal[2] or b""
            raise refused_greeting(line, refusal[0], code, b"NO (TRYLATER)", forwardable_reply)
        if line.endswith(own_greeting):
            raise ConnectedToItself("its greeting is our own")
        announced = dict(capability(line) for line in lines)
        if start_tls is not StartTLSPolicy.NEVER:
            announced = yield from self.negotiate_tls(start_tls, announced)
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
        yield Write(head + argument + b"\r\n", log_as=head + REDACTED + b"\r\n")
        lines, line = yield from self.response("AUTHENTICATE")
        if any(
            SASL.match(line) for line in lines
        ):  # the capabilities after STARTTLS, which came late
            _, line = yield from self.response("AUTHENTICATE")
        if refusal := REFUSAL.match(line):
            code = refusal[2] or (b"" if refusal[1].upper() == b"NO" else b"BYE")
            raise refused(
                line,
                refusal[0],
                code,
                credentials,
                placeholder=quote(REDACTED),
                forwardable=forwardable_reply,
            )
        return Accepted(line)

    def negotiate_tls(
        self, start_tls: StartTLSPolicy, announced: dict[bytes, bytes]
    ) -> Dialogue[dict[bytes, bytes]]:
        """Negotiate TLS with a real server that offers it; return its capabilities after that.

        Raises ServerTLSNotPresent if TLS is required but not offered, NegotiationFailed if refused.
        """
        if b"STARTTLS" not in announced:
            if start_tls is StartTLSPolicy.REQUIRED:
                raise ServerTLSNotPresent("the real server does not offer STARTTLS")
            return announced
        yield Write(b"STARTTLS\r\n")
        _, line = yield from self.response("STARTTLS")
        if line[:2].upper() != b"OK":
            raise unexpected("STARTTLS", line)
        yield StartTLS()
        if not (yield AwaitInput(UNSOLICITED_SECONDS)):
            yield Write(b"CAPABILITY\r\n")
        announced, _ = yield from self.announced("capabilities after STARTTLS")
        return announced

    def announced(self, what: str) -> Dialogue[tuple[dict[bytes, bytes], bytes]]:
        """Read the capabilities that a real server sends unsolicited, and the OK after them."""
        lines, outcome = yield from self.response(what)
        if outcome[:2].upper() != b"OK":
            raise unexpected(what, outcome)
        return dict(capability(line) for line in lines), outcome

    def response(self, what: str) -> Dialogue[tuple[list[bytes], bytes]]:
        """Return a real server's response: the lines before its OK, NO or BYE, and that line."""
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
        raise unexpected(f"{what}: too long")

    def whole_line(self, what: str) -> Dialogue[bytes]:
        """Read a real server's line, its literals included."""
        line = whole = yield ReadLine(SERVER_LINE_LIMIT, redact_reply)
        if OUTCOME.match(line) and not OUTCOME_LITERAL.match(line):
            return line
        while literal := LITERAL.search(line):
            size = int(literal[1])
            if size > ANSWER_LIMIT or len(whole) > ANSWER_LIMIT:
                raise unexpected(f"{what}: literal too long")
            text = yield ReadExactly(size)
            line = yield ReadLine(SERVER_LINE_LIMIT, redact_reply)
            whole += b"\r\n" + text + line
        return whole

    def welcome(self, credentials: Credentials, accepted: Accepted, ok_line: str | None) -> bytes:
        if ok_line is None:
            return accepted.line + b"\r\n"
        return b"OK " + string(fsencode(ok_line)) + b"\r\n"

    def refusal(self, credentials: Credentials, failure: Failure, verbatim: bool) -> bytes:
        if failure.server_line and (verbatim or failure.forwards_reply):
            return as_no(failure.server_line) + b"\r\n"
        code = fsencode(f"({failure.managesieve_code}) " if failure.managesieve_code else "")
        return b"NO " + code + string(fsencode(failure.reply)) + b"\r\n"


def forwardable_reply(line: bytes, head: bytes) -> bytes:
    """Return a reply with a response code and a text that may be sent to the client."""
    text = line[len(head) :].lstrip(b" ")
    if not head.isascii() or printable_text(head, FORWARDED_LENGTH) != head:
        head = head.partition(b" ")[0]
    if literal := LITERAL_HEAD.match(text):
        text = text[literal.end() :]
        if printable_text(text, FORWARDED_LENGTH) == text:
            return head + b" " + literal[0] + text
    elif quoted := QUOTED.fullmatch(printable_text(text, len(text))):
        text = unquote(quoted[1])
    elif not text:
        return head
    return head + b" " + quote(printable_text(text, FORWARDED_LENGTH))


def as_no(line: bytes) -> bytes:
    """Return a real server's BYE as a NO: our own connection to the client stays open."""
    word, _, rest = line.partition(b" ")
    if word.upper() != b"BYE":
        return line
    return (b"NO " + rest if rest.startswith(b"(") else b"NO (TRYLATER) " + rest).rstrip(b" ")


def capability(line: bytes) -> tuple[bytes, bytes]:
    """Parse a capability: its name in upper case, and its value (b"" if it has none)."""
    words = []
    while line := line.lstrip(b" "):
        if quoted := QUOTED.match(line):
            words.append(unquote(quoted[1]))
            line = line[quoted.end() :]
        elif literal := LITERAL_HEAD.match(line):
            end = literal.end() + int(literal[1])
            words.append(line[literal.end() : end])
            line = line[end:]
        else:
            raise unexpected("capabilities", line)
    name, value = [*words, b"", b""][:2]
    return name.upper(), value
