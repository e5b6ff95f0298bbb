"""POP3: RFC 1939, with CAPA (RFC 2449), STLS (RFC 2595) and response codes (RFC 3206)."""

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
    ReadLine,
    StartTLS,
    StartTLSPolicy,
    Write,
    redact_reply,
    refuse,
)
from perdition.protocol.refusals import forwardable_line, refused, refused_greeting

LINE_LIMIT = 4096
"""Maximum bytes in a client's line; RFC 2449 requires 255, but long passwords need more."""
REPLY_LIMIT = 510
"""Maximum bytes in the first line of a reply, without its line end (RFC 2449, section 4)."""
CAPABILITY_LIMIT = 256
"""Maximum lines in a real server's response to CAPA."""

CONTROL_CHARACTERS = bytes((*range(0x20), 0x7F))
"""Bytes that are not printable (RFC 1939, section 3), except those above 0x7f."""

USER_REFUSED = re.compile(rb"-ERR \[AUTH\]", re.IGNORECASE)
REFUSAL = re.compile(rb"-ERR\b(?: \[([^]/ ]{1,100})(?:[/ ][^]]*)?\])?", re.IGNORECASE)


def redact_command(line: bytes) -> bytes:
    """Return a command as it may be logged; everything unknown could be a password."""
    command = line.partition(b" ")[0]
    if command.upper() in (b"USER", b"CAPA", b"STLS", b"QUIT"):
        return line
    return command + b" " + REDACTED if command.upper() == b"PASS" else REDACTED


def capabilities(offer: LoginOffer) -> list[str]:
    """Return the lines of our response to CAPA, with STLS, USER and SASL as they apply now.

    The option separates them by dots or, as before perdition 1.18, by two spaces.
    """
    delimiter = "  " if "  " in offer.capability else "."
    listed = [word for word in offer.capability.split(delimiter) if word and word != "STLS"]
    if offer.login_disabled:
        listed = [word for word in listed if word.split()[:1] not in (["USER"], ["SASL"])]
    return [*listed, "STLS"] if offer.starttls else listed


def cut_command(line: bytes) -> tuple[bytes, bytes | None]:
    """Split a line into the command, in upper case, and its argument.

    Trailing blanks are ignored, except in a password.
    """
    command, space, argument = line.partition(b" ")
    if command.upper() == b"PASS":
        return b"PASS", argument if space else None
    return command.upper(), argument.rstrip(b" ") or None


class POP3(Protocol):
    capability_option = "pop_capability"
    alpn = "pop3"
    logout_command = b"QUIT\r\n"
    unsendable = CONTROL_CHARACTERS

    def own_greeting(self, hostname: str) -> bytes:
        return b"+OK POP3 Ready " + fsencode(hostname)

    def greeting(self, hostname: str, offer: LoginOffer) -> bytes:
        return self.own_greeting(hostname) + b"\r\n"

    def refused_mechanisms(self, capability: str) -> list[str]:
        listed = (line.split() for line in capabilities(LoginOffer(capability)))
        return [
            f"SASL {name}" for word, *names in listed if word.upper() == "SASL" for name in names
        ]

    def client_dialogue(
        self, offer: LoginOffer, offer_after_tls: LoginOffer
    ) -> Dialogue[Credentials | None]:
        user = b""
        while True:
            try:
                line = yield ReadLine(LINE_LIMIT, redact_command)
            except LineTooLong:
                yield Write(b"-ERR line too long, closing\r\n")
                return None
            match cut_command(line):
                case _ if not set(line).isdisjoint(CONTROL_CHARACTERS):
                    yield from refuse(b"-ERR a line must not contain control characters\r\n")
                case b"USER", bytes(name) if b" " not in name:
                    if offer.login_disabled:
                        return Credentials(fsdecode(name), b"")
                    user = name
                    yield Write(b"+OK send the password\r\n")
                case b"PASS", bytes(password) if user:
                    return Credentials(fsdecode(user), password)
                case b"CAPA", None:
                    listed = "".join(f"{word}\r\n" for word in capabilities(offer))
                    yield Write(b"+OK capabilities follow\r\n" + fsencode(listed) + b".\r\n")
                case b"STLS", None if offer.starttls:
                    yield Write(b"+OK begin TLS\r\n")
                    yield StartTLS()
                    offer, user = offer_after_tls, b""
                case b"QUIT", None:
                    yield Write(b"+OK bye\r\n")
                    return None
                case b"AUTH", _:
                    yield Write(b"-ERR use USER and PASS\r\n")
                case _:
                    yield from refuse(b"-ERR use USER name, then PASS password; CAPA or QUIT\r\n")

    def server_dialogue(
        self, credentials: Credentials, own_greeting: bytes, start_tls: StartTLSPolicy
    ) -> Dialogue[Accepted]:
        greeting = yield ReadLine(SERVER_LINE_LIMIT)
        if greeting == own_greeting:
            raise ConnectedToItself("its greeting is our own")
        if refusal := REFUSAL.match(greeting):
            raise refused_greeting(
                greeting, refusal[0], refusal[1] or b"", b"-ERR [SYS/TEMP]", forwardable_reply
            )
        if not is_ok(greeting):
            raise unexpected("greeting", greeting)
        if start_tls is not StartTLSPolicy.NEVER:
            yield from self.negotiate_tls(start_tls)
        user = fsencode(credentials.user)
        self.require_sendable(user, credentials.password)
        yield Write(b"USER " + user + b"\r\n")
        line = yield ReadLine(SERVER_LINE_LIMIT)
        may_require_tls = start_tls is StartTLSPolicy.NEVER and USER_REFUSED.match(line)
        if may_require_tls and (yield from self.requires_tls()):
            raise MechanismUnavailable("the real server requires TLS: it has no USER without STLS")
        if is_ok(line):
            password = b"PASS " + credentials.password + b"\r\n"
            yield Write(password, log_as=b"PASS " + REDACTED + b"\r\n")
            line = yield ReadLine(SERVER_LINE_LIMIT, redact_reply)
        if is_ok(line):
            return Accepted(line)
        if refusal := REFUSAL.match(line):
            raise refused(
                line, refusal[0], refusal[1] or b"", credentials, forwardable=forwardable_reply
            )
        raise unexpected("USER or PASS")

    def requires_tls(self) -> Dialogue[bool]:
        """Return whether the real server offers USER only after STLS.

        Such servers refuse USER with the response code AUTH, like wrong credentials.
        """
        announced = yield from self.announced()
        return b"STLS" in announced and b"USER" not in announced

    def negotiate_tls(self, start_tls: StartTLSPolicy) -> Dialogue[None]:
        """Negotiate TLS with the real server if it offers STLS.

        Raises ServerTLSNotPresent if TLS is required but not offered, NegotiationFailed if refused.
        """
        if b"STLS" not in (yield from self.announced()):
            if start_tls is StartTLSPolicy.REQUIRED:
                raise ServerTLSNotPresent("the real server does not offer STLS")
            return
        yield Write(b"STLS\r\n")
        line = yield ReadLine(SERVER_LINE_LIMIT)
        if not is_ok(line):
            raise unexpected("STLS", line)
        yield StartTLS()

    def announced(self) -> Dialogue[set[bytes]]:
        """Request the real server's capabilities; a server without CAPA has none."""
        yield Write(b"CAPA\r\n")
        line = yield ReadLine(SERVER_LINE_LIMIT)
        listed: set[bytes] = set()
        if not is_ok(line):
            return listed
        for _ in range(CAPABILITY_LIMIT):
            line = yield ReadLine(SERVER_LINE_LIMIT)
            if line == b".":
                return listed
            listed.add(line.upper())
        raise unexpected("CAPA: too many lines", line)

    def welcome(self, credentials: Credentials, accepted: Accepted, ok_line: str | None) -> bytes:
        if ok_line is None:
            return accepted.line + b"\r\n"
        return b"+OK " + fsencode(ok_line) + b"\r\n"

    def refusal(self, credentials: Credentials, failure: Failure, verbatim: bool) -> bytes:
        if failure.server_line and (verbatim or failure.forwards_reply):
            return failure.server_line + b"\r\n"
        code = f"[{failure.pop3_code}] " if failure.pop3_code else ""
        return fsencode(f"-ERR {code}{failure.reply}\r\n")


def forwardable_reply(line: bytes, head: bytes) -> bytes:
    """Return a reply as it may be sent to the client."""
    return forwardable_line(line, head, REPLY_LIMIT)


def is_ok(line: bytes) -> bool:
    """Return whether a reply is +OK."""
    return line[:3].upper() == b"+OK"
