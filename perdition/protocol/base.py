"""The interface of a protocol: its two dialogues, and the replies before and after them."""

import re
from abc import ABC, abstractmethod
from typing import ClassVar

from perdition.failure import Failure, NegotiationFailed, Rejected
from perdition.protocol.dialogue import Accepted, Credentials, Dialogue, LoginOffer, StartTLSPolicy

SERVER_LINE_LIMIT = 65536
"""Maximum bytes in a line of a real server; some list all their capabilities in the greeting."""


class Protocol(ABC):
    """A mail protocol, from the view of a proxy between a client and a real server."""

    capability_option: ClassVar[str]
    """The option with the capabilities announced to clients before they log in."""
    alpn: ClassVar[str]
    """The protocol's name in ALPN (RFC 7301)."""
    logout_command: ClassVar[bytes]
    """Sent to a real server before the connection to it is closed."""
    response_end: ClassVar[re.Pattern[bytes]] = re.compile(rb"(?!)")
    """Matches the end of a real server's output if a notice may follow it: a complete line that is
    a response of its own, and neither is in a literal nor announces one."""
    unsendable: ClassVar[bytes]
    """Bytes that the protocol cannot carry in a user name or a password."""

    @abstractmethod
    def greeting(self, hostname: str, offer: LoginOffer) -> bytes:
        """Return the greeting for a client, line ends included."""

    def closing_notice(self, reason: str, *, temporary: bool = False) -> bytes:
        """Return what to send to a client that is not logged in before its connection is closed.

        POP3 has no such notice (RFC 1939, section 3).
        """
        return b""

    @abstractmethod
    def own_greeting(self, hostname: str) -> bytes:
        """Return the part of our greeting by which a connection to ourselves is detected."""

    @abstractmethod
    def refused_mechanisms(self, capability: str) -> list[str]:
        """Return the SASL mechanisms that ``capability`` announces although we refuse them."""

    @abstractmethod
    def client_dialogue(
        self, offer: LoginOffer, offer_after_tls: LoginOffer
    ) -> Dialogue[Credentials | None]:
        """Serve a client until it sends credentials; returns None if the connection must be closed.

        ``offer`` applies now, ``offer_after_tls`` after STARTTLS. If the login would be refused,
        credentials without a password are enough, so that no client need send it.
        """

    @abstractmethod
    def server_dialogue(
        self, credentials: Credentials, own_greeting: bytes, start_tls: StartTLSPolicy
    ) -> Dialogue[Accepted]:
        """Log in at a real server.

        Raises a Failure: ConnectedToItself, NegotiationFailed, MechanismUnavailable,
        ServerTLSNotPresent, Rejected, ServerRefused.
        """

    @abstractmethod
    def welcome(self, credentials: Credentials, accepted: Accepted, ok_line: str | None) -> bytes:
        """Return the reply to a successful login; if ``ok_line`` is None, the real server's."""

    @abstractmethod
    def refusal(self, credentials: Credentials, failure: Failure, verbatim: bool) -> bytes:
        """Return the reply to a failed login.

        With ``verbatim`` the real server's reply is used for every failure, if there was one.
        """

    def require_sendable(self, *texts: bytes) -> None:
        """Raise Rejected if a text contains bytes that would end the command it is sent in."""
        for text in texts:
            if not set(text).isdisjoint(self.unsendable):
                raise Rejected("the user name or the password contains a control character")


def unexpected(what: str, line: bytes | None = None) -> NegotiationFailed:
    """Return the failure for a reply that the protocol does not allow.

    ``line`` is the reply; omit it once the password was sent, because it could repeat the password.
    """
    reply = "" if line is None else f": {line[:200]!r}"
    return NegotiationFailed(f"unexpected reply from the real server ({what}){reply}")
