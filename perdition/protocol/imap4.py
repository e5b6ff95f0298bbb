"""IMAP4: RFC 3501, with LITERAL+ (RFC 7888), ID (RFC 2971) and response codes (RFC 5530)."""

import re
from os import fsdecode, fsencode

from perdition.failure import (
    ConnectedToItself,
    Failure,
    MechanismUnavailable,
    ServerTLSNotPresent,
)
from perdition.protocol.base import SERVER_LINE_LIMIT, Protocol, unexpected
from perdition.protocol.dialogue import (
    REDACTED,
    Accepted,
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
from perdition.protocol.strings import COMMAND_LIMIT, LITERAL, QUOTABLE, Grammar, Malformed, quote

LINE_LIMIT = 8192
"""Maximum bytes in a client's line (RFC 7162, section 4), except of ID."""
UNTAGGED_LIMIT = 65536
"""Maximum bytes in the untagged responses before a tagged one."""
QUOTED_LIMIT = 1000
"""Maximum bytes in a quoted string that we send; some servers limit the line length."""
LITERAL_MINUS_LIMIT = 4096
"""Maximum bytes in a non-synchronizing literal with LITERAL- (RFC 7888)."""

GRAMMAR = Grammar(LINE_LIMIT, quoted_limit=LINE_LIMIT, continuation=b"+ go on\r\n", atoms=True)
TAG = re.compile(rb'(?!\+)[^\0-\x20\x7f-\xff(){%*"\\\]]+')
CAPABILITY_CODE = re.compile(rb"(?:\* )?[A-Z]+ \[CAPABILITY ([^\]\r\n]*)\]", re.IGNORECASE)
CAPABILITY_LINE = re.compile(rb"^\* CAPABILITY (.*)\r\n", re.IGNORECASE | re.MULTILINE)
ALERT = re.compile(rb"OK \[ALERT\]", re.IGNORECASE)
STATUS = re.compile(rb"\* (OK|NO|BAD|BYE|PREAUTH)\b", re.IGNORECASE)
FORWARDED_STATUS = re.compile(rb"\* (OK|NO|BAD)\b", re.IGNORECASE)
REFUSAL = re.compile(rb"(NO|BAD|BYE)\b(?: \[([^] ]{1,100})(?: [^]]*)?\])?", re.IGNORECASE)
BYE = re.compile(rb"\* BYE\b", re.IGNORECASE)
"""An untagged response after which there may be no tagged one."""
BYE_OR_REFUSAL = re.compile(rb"\* (BYE\b|NO \[AUTHENTICATIONFAILED\])", re.IGNORECASE)
"""Those after LOGIN."""
OUR_TAG = b"perdition"
UNTAGGED = b"*"


def redact_command(line: bytes) -> bytes:
    """Return a command as it may be logged; everything unknown could be a password."""
    tag, _, rest = line.partition(b" ")
    name = rest.partition(b" ")[0]
    if name.upper() in (b"CAPABILITY", b"NOOP", b"ID", b"STARTTLS", b"LOGOUT"):
        return line
    return b" ".join((tag, name, REDACTED)) if name.upper() == b"LOGIN" else REDACTED


def capability(offer: LoginOffer) -> bytes:
    """Return the option's list, with STARTTLS and LOGINDISABLED as they apply now."""
    listed = re.sub(r"(?<!\S)STARTTLS(?!\S) ?", "", offer.capability).rstrip(" ")
    if offer.starttls:
        listed += " STARTTLS"
    if offer.login_disabled and "LOGINDISABLED" not in listed.split():
        listed += " LOGINDISABLED"
    return fsencode(listed)


RESPONSE_END = re.compile(
    rb"(?:\A|\n)"
    rb"(?:\* (?:OK|NO|BAD|FLAGS|STATUS|VANISHED|[0-9]+ [A-Z]+)|[^ \r\n*+]+ (?:OK|NO|BAD))\b"
    rb"[^\r\n]*(?<!\})\r\n\Z"
    rb"|\A\+[^\r\n]*\r\n\Z",  # as after IDLE; in a literal, + may begin a line of a patch
    re.IGNORECASE,
)
"""The end of a complete response, which may be the last one for a while."""


class IMAP4(Protocol):
    capability_option = "imap_capability"
    alpn = "imap"
    logout_command = OUR_TAG + b" LOGOUT\r\n"
    response_end = RESPONSE_END
    unsendable = b"\0"  # CR and LF go in a literal

    def own_greeting(self, hostname: str) -> bytes:
        return b"IMAP4 Ready " + fsencode(hostname)

    def greeting(self, hostname: str, offer: LoginOffer) -> bytes:
        return b"* OK [CAPABILITY %b] %b\r\n" % (capability(offer), self.own_greeting(hostname))

    def refused_mechanisms(self, capability: str) -> list[str]:
        return re.findall(r"(?<!\S)AUTH=\S+", capability, re.IGNORECASE)

    def closing_notice(self, reason: str, *, temporary: bool = False) -> bytes:
        code = b"[UNAVAILABLE] " if temporary else b""
        return b"* BYE %b%b\r\n" % (code, fsencode(reason))

    def client_dialogue(
        self, offer: LoginOffer, offer_after_tls: LoginOffer
    ) -> Dialogue[Credentials | None]:
        asked = False
        while True:
            tag = UNTAGGED
            try:
                line = yield ReadLine(COMMAND_LIMIT, redact_command)
                tag, name, rest = self.cut_command(line)
                pieces = yield from GRAMMAR.read_literals(line)
                match name:
                    case _ if tag == UNTAGGED:
                        raise Malformed("expected a tag and a command")
                    case b"LOGIN":
                        credentials = self.credentials(tag, [rest, *pieces[1:]])
                        return credentials._replace(asked_capability=asked)
                    case b"CAPABILITY" if not rest:
                        asked = True
                        listed = capability(offer)
                        yield Write(b"* CAPABILITY %b\r\n%b OK done\r\n" % (listed, tag))
                    case b"NOOP" if not rest:
                        yield Write(tag + b" OK done\r\n")
                    case b"ID" if rest:
                        yield Write(b'* ID ("name" "perdition")\r\n%b OK done\r\n' % tag)
                    case b"STARTTLS" if offer.starttls and not rest:
                        yield Write(tag + b" OK begin TLS\r\n")
                        yield StartTLS()
                        offer = offer_after_tls
                    case b"LOGOUT" if not rest:
                        yield Write(b"* BYE see you\r\n%b OK done\r\n" % tag)
                        return None
                    case b"AUTHENTICATE":
                        yield Write(tag + b" NO [CANNOT] use LOGIN\r\n")
                    case _:
                        raise Malformed("use LOGIN, CAPABILITY, ID, NOOP or LOGOUT")
            except Malformed as reason:
                reply = b" BAD %b\r\n" % fsencode(str(reason))
                yield from refuse(tag + reply, log_as=REDACTED + reply)
            except LineTooLong:
                yield Write(b"* BYE too long, closing\r\n")
                return None

    def cut_command(self, line: bytes) -> tuple[bytes, bytes, bytes]:
        """Split a line into tag, name in upper case, and the rest with its leading space.

        An invalid tag is returned as UNTAGGED. Trailing blanks are ignored. Raises LineTooLong for
        a command other than ID that exceeds LINE_LIMIT.
        """
        tag, _, command = line.rstrip(b" ").partition(b" ")
        name, space, arguments = command.partition(b" ")
        name = name.upper()
        if len(line) > LINE_LIMIT and name != b"ID":
            raise LineTooLong
        return tag if TAG.fullmatch(tag) else UNTAGGED, name, space + arguments

    def credentials(self, tag: bytes, pieces: list[bytes]) -> Credentials:
        """Return the arguments of LOGIN; raises Malformed, also for an empty user name."""
        arguments = GRAMMAR.arguments(pieces)
        if len(arguments) != 2 or not arguments[0]:
            raise Malformed("use LOGIN user password")
        user, password = arguments
        return Credentials(fsdecode(user), password, tag=tag)

    def server_dialogue(
        self, credentials: Credentials, own_greeting: bytes, start_tls: StartTLSPolicy
    ) -> Dialogue[Accepted]:
        greeting = yield ReadLine(SERVER_LINE_LIMIT)
        if greeting.endswith(b" " + own_greeting):
            raise ConnectedToItself("its greeting is our own")
        if greeting.startswith(b"* ") and (refusal := REFUSAL.match(greeting[2:])):
            code = reason_code(refusal)
            raise refused_greeting(greeting[2:], refusal[0], code, b"NO [UNAVAILABLE]")
        if not STATUS.match(greeting) or not is_ok(greeting[2:]):
            raise unexpected("greeting", greeting)
        announced = yield from self.announced(greeting)
        if start_tls is not StartTLSPolicy.NEVER:
            announced = yield from self.negotiate_tls(start_tls, announced)
        if b"LOGINDISABLED" in announced:
            raise MechanismUnavailable("the real server announces LOGINDISABLED")
        self.require_sendable(fsencode(credentials.user), credentials.password)
        untagged = yield from self.send_login(credentials, announced)
        line, more = yield from self.response(BYE_OR_REFUSAL)
        untagged += more
        if not is_ok(line):
            raise self.login_refused(line, credentials, untagged)
        return (yield from self.with_capability(Accepted(line, untagged)))

    def announced(self, line: bytes = b"") -> Dialogue[set[bytes]]:
        """Return the capabilities in a real server's line, or request them if it has none.

        A server could have LOGINDISABLED among them, and must then not get a password.
        """
        if code := CAPABILITY_CODE.match(line):
            return set(code[1].upper().split())
        yield Write(OUR_TAG + b" CAPABILITY\r\n")
        line, untagged = yield from self.response()
        listed = CAPABILITY_LINE.search(untagged)
        if not is_ok(line) or not listed:
            raise unexpected("CAPABILITY", line)
        return set(listed[1].upper().split())

    def with_capability(self, accepted: Accepted) -> Dialogue[Accepted]:
        """Add the capabilities after the login; request them if the real server has not sent them.

        Otherwise clients would keep using the list in our greeting.
        """
        line, untagged, _ = accepted
        if listed := CAPABILITY_CODE.match(line) or CAPABILITY_LINE.search(untagged):
            return accepted._replace(capability=listed[1])
        yield Write(OUR_TAG + b" CAPABILITY\r\n")
        line, more = yield from self.response()
        if line[:3].upper() == b"BYE":
            raise unexpected("CAPABILITY after the login")
        listed = CAPABILITY_LINE.search(more)
        untagged += CAPABILITY_LINE.sub(b"", more)
        return accepted._replace(untagged=untagged, capability=listed[1] if listed else b"")

    def negotiate_tls(
        self, start_tls: StartTLSPolicy, announced: set[bytes]
    ) -> Dialogue[set[bytes]]:
        """Negotiate TLS with a real server that offers it; return its capabilities after that.

        Raises ServerTLSNotPresent if TLS is required but not offered, NegotiationFailed if refused.
        """
        if b"STARTTLS" not in announced:
            if start_tls is StartTLSPolicy.REQUIRED:
                raise ServerTLSNotPresent("the real server does not offer STARTTLS")
            return announced
        yield Write(OUR_TAG + b" STARTTLS\r\n")
        line, _ = yield from self.response()
        if not is_ok(line):
            raise unexpected("STARTTLS", line)
        yield StartTLS()
        return (yield from self.announced())

    def send_login(self, credentials: Credentials, announced: set[bytes]) -> Dialogue[bytes]:
        """Send LOGIN in as few round trips as possible; return the untagged responses so far.

        Raises a Failure if the real server does not request a literal.
        """
        command, untagged = OUR_TAG + b" LOGIN", b""
        arguments = (fsencode(credentials.user), credentials.password)
        quoted = all(len(text) <= QUOTED_LIMIT and QUOTABLE.fullmatch(text) for text in arguments)
        for text in arguments:
            if quoted:
                command += b" " + quote(text)
            elif may_send_at_once(len(text), announced):
                command += b" {%d+}\r\n%b" % (len(text), text)
            else:
                command += b" {%d}\r\n" % len(text)
                yield Write(command, log_as=OUR_TAG + b" LOGIN " + REDACTED + b"\r\n")
                line, more = yield from self.response(BYE_OR_REFUSAL)
                untagged += more
                if not line.startswith(b"+"):
                    raise self.login_refused(line, credentials, untagged)
                command = text
        yield Write(command + b"\r\n", log_as=OUR_TAG + b" LOGIN " + REDACTED + b"\r\n")
        return untagged

    def response(self, last: re.Pattern[bytes] = BYE) -> Dialogue[tuple[bytes, bytes]]:
        """Return the response to our command without its tag, and the untagged ones before it.

        A continuation request and a match of ``last`` also count as the response to our command.
        """
        untagged = b""
        while True:
            line = yield ReadLine(SERVER_LINE_LIMIT, redact_reply)
            if line.startswith(b"+"):
                return line, untagged
            if line.startswith(OUR_TAG + b" ") or last.match(line):
                return line.partition(b" ")[2], untagged
            untagged = yield from self.with_untagged(untagged, line)

    def login_refused(self, line: bytes, credentials: Credentials, untagged: bytes) -> Failure:
        """Return the failure for a response to LOGIN other than OK."""
        if not (refusal := REFUSAL.match(line)):
            return unexpected("LOGIN")
        word, code = refusal[1].upper(), reason_code(refusal)
        if word != b"NO":
            code = code or word
        failure = refused(line, refusal[0], code, credentials, untagged)
        failure.untagged = forwardable_untagged(failure.untagged)
        return failure

    def with_untagged(self, untagged: bytes, line: bytes) -> Dialogue[bytes]:
        """Return the untagged responses with one more, its literals included.

        Raises NegotiationFailed for any other line, and over UNTAGGED_LIMIT.
        """
        if not line.startswith(b"* "):
            raise unexpected("neither untagged nor tagged")
        untagged += line + b"\r\n"
        if STATUS.match(line):  # text for people, which has no literals
            line = b""
        while literal := LITERAL.search(line):
            size = int(literal[1])
            if len(untagged) + size > UNTAGGED_LIMIT:
                break
            untagged += yield ReadExactly(size)
            line = yield ReadLine(SERVER_LINE_LIMIT, redact_reply)
            untagged += line + b"\r\n"
        if len(untagged) > UNTAGGED_LIMIT or literal:
            raise unexpected("too many untagged responses")
        return untagged

    def welcome(self, credentials: Credentials, accepted: Accepted, ok_line: str | None) -> bytes:
        line, untagged, listed = accepted
        told = CAPABILITY_CODE.match(line) or CAPABILITY_LINE.search(untagged)
        if ok_line is not None:
            if ALERT.match(line):
                untagged += b"* " + line + b"\r\n"
            code = b"[CAPABILITY %b] " % listed if listed else b""
            line = b"OK %b%b" % (code, fsencode(ok_line))
        if listed and not told and (ok_line is None or credentials.asked_capability):
            untagged += b"* CAPABILITY %b\r\n" % listed
        return untagged + credentials.tag + b" " + line + b"\r\n"

    def refusal(self, credentials: Credentials, failure: Failure, verbatim: bool) -> bytes:
        if failure.server_line and (verbatim or failure.forwards_reply):
            line = as_no(failure.server_line, convert_bad=not verbatim)
        else:
            code = f"[{failure.imap4_code}] " if failure.imap4_code else ""
            line = fsencode(f"NO {code}{failure.reply}")
        return failure.untagged + credentials.tag + b" " + line + b"\r\n"


def reason_code(refusal: re.Match[bytes]) -> bytes:
    """Return the response code of a match of REFUSAL, b"" if it has none that is a reason."""
    code = refusal[2] or b""
    return b"" if code.upper() == b"CAPABILITY" else code


def forwardable_untagged(untagged: bytes) -> bytes:
    """Return what the client may get of the responses before a refusal: their texts for people.

    The client stays connected to us, so the real server's capabilities and state do not apply.
    """
    lines = [
        printable_text(line, FORWARDED_LENGTH) + b"\r\n"
        for line in untagged.split(b"\r\n")
        if FORWARDED_STATUS.match(line) and not CAPABILITY_CODE.match(line)
    ]
    return b"".join(lines)


def as_no(line: bytes, convert_bad: bool) -> bytes:
    """Return a real server's BYE or BAD as a NO with a response code.

    Our own connection to the client stays open, and the client's command was valid.
    """
    word, _, rest = line.partition(b" ")
    if word.upper() == b"BYE" or (word.upper() == b"BAD" and convert_bad):
        return (b"NO " if rest.startswith(b"[") else b"NO [UNAVAILABLE] ") + rest
    return line


def may_send_at_once(size: int, announced: set[bytes]) -> bool:
    """Return whether a literal of that size may be non-synchronizing (RFC 7888)."""
    return b"LITERAL+" in announced or (b"LITERAL-" in announced and size <= LITERAL_MINUS_LIMIT)


def is_ok(line: bytes) -> bool:
    """Return whether a response, without its tag, is OK."""
    return line.partition(b" ")[0].upper() == b"OK"
