"""What every protocol has: its two dialogues, and the words around them."""

import re
from abc import ABC, abstractmethod
from typing import ClassVar

from perdition.failure import Failure, NegotiationFailed, Rejected
from perdition.protocol.dialogue import Accepted, Credentials, Dialogue, StartTLSPolicy, Terms

SERVER_LINE_LIMIT = 65536
"""Octets in a line of a real server; some greet with all their capabilities."""


class Protocol(ABC):
    """A mail protocol, seen from a proxy that stands between a client and a real server."""

    alpn: ClassVar[str]
    """The protocol's name where TLS negotiates one (RFC 7301)."""
    farewell: ClassVar[bytes]
    """What ends a connection to a real server politely."""
    idle_notice: ClassVar[bytes] = b""
    """What a client is told before its idle connection is closed."""
    shutdown_notice: ClassVar[bytes] = b""
    """What a client is told before its connection is closed because perdition stops."""
    response_end: ClassVar[re.Pattern[bytes]] = re.compile(rb"(?!)")
    """Matches the end of a real server's octets after which a notice may follow: a complete line
    that is a response of its own, not one within a literal, nor one that announces a literal."""
    unsendable: ClassVar[bytes] = b"\r\n\0"
    """Octets that no user name and no password sent to a real server may hold."""

    @abstractmethod
    def greeting(self, hostname: str, terms: Terms) -> bytes:
        """Return what a client sees first, line ends included."""

    @abstractmethod
    def own_greeting(self, hostname: str) -> bytes:
        """Return the part of our greeting that tells that a real server is ourselves."""

    @abstractmethod
    def client(self, terms: Terms, secured: Terms) -> Dialogue[Credentials | None]:
        """Talk to a client until it says who it is; None when it leaves, or must.

        ``terms`` hold now, ``secured`` after the client has negotiated TLS.
        """

    @abstractmethod
    def login(
        self, credentials: Credentials, own_greeting: bytes, upgrade: StartTLSPolicy
    ) -> Dialogue[Accepted]:
        """Log in at a real server.

        Raises a Failure: Loop, NegotiationFailed, MechanismUnavailable, TLSNotPresent, Rejected.
        """

    @abstractmethod
    def welcome(self, credentials: Credentials, accepted: Accepted, ok_line: str | None) -> bytes:
        """Return the answer to a client that is logged in; without ``ok_line``: the server's."""

    @abstractmethod
    def refusal(self, credentials: Credentials, failure: Failure, verbatim: bool) -> bytes:
        """Return the answer to a client whose login failed.

        ``verbatim``: the real server's own words, where it has said any.
        """

    def require_sendable(self, *texts: bytes) -> None:
        """Raise Rejected if one of the texts would break out of the command it is sent in."""
        for text in texts:
            if any(octet in self.unsendable for octet in text):
                raise Rejected("the user name or the password holds a CR, LF or NUL")


def unexpected(what: str, line: bytes | None = None) -> NegotiationFailed:
    """Return the failure of a real server that said something else than it had to.

    ``line`` is what it said, but only before it has the password, which it could say again.
    """
    said = "" if line is None else f": it said {line[:200]!r}"
    return NegotiationFailed(f"the real server broke its protocol ({what}){said}")
