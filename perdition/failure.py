"""What can go wrong between a client's credentials and a logged-in real server.

Each failure says once, here, what the log's status is, what the client is told, with which
response code of its protocol (RFC 3206, 5530, 5804), how it is counted, and whether another
server may be tried.
"""

import re
from typing import ClassVar


class StartupError(Exception):
    """perdition cannot start. Its text is one line that names the option or file and the mend."""


FAILURES: list[type["Failure"]] = []
"""All there are, in the order of this file."""


class Failure(Exception):
    """A login that failed. ``detail`` is for the operator's log, never for the client."""

    label: ClassVar[str]
    """What it is counted as: its name, as map_unavailable."""
    status: ClassVar[str]
    reply: ClassVar[str]
    pop3_code: ClassVar[str] = ""
    imap4_code: ClassVar[str] = ""
    managesieve_code: ClassVar[str] = ""
    another_server: ClassVar[bool] = False
    """No credentials were sent, so that the next of several servers may have them."""
    everyday: ClassVar[bool] = False
    """A user's mistake, or a guess: its detail is worth a line only to who debugs."""
    goodbye: ClassVar[bool] = True
    """The real server still listens: end with its protocol's QUIT or LOGOUT."""

    def __init__(self, detail: str = "", server_line: bytes = b"", untagged: bytes = b"") -> None:
        super().__init__(detail)
        self.detail = detail
        self.server_line = server_line
        self.untagged = untagged
        self.secure = "plaintext"
        """How the connection to the real server was secured when the login failed."""

    def __init_subclass__(cls) -> None:
        """Tell the client what the log says, unless a failure has other words for it."""
        cls.label = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", cls.__name__).lower()
        FAILURES.append(cls)
        if "status" in cls.__dict__ and "reply" not in cls.__dict__:
            cls.reply = cls.status


class LoginDisabled(Failure):
    """The site allows no logins now (``--login_disabled``)."""

    status = "Login Disabled"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"


class TLSNotPresent(Failure):
    """The site allows no logins without TLS, on this side or the other."""

    status = "TLS not present"
    imap4_code = "PRIVACYREQUIRED"


class Rejected(Failure):
    """The real server does not accept the credentials (also: they cannot be sent to it)."""

    status = "Re-Authentication Failure"
    pop3_code = "AUTH"
    imap4_code = "AUTHENTICATIONFAILED"
    everyday = True


class Loop(Failure):
    """The real server's greeting is our own: we have connected to ourselves."""

    status = Rejected.status
    pop3_code = "SYS/PERM"
    imap4_code = "SERVERBUG"


class NoServer(Failure):
    """Neither the popmap nor an option names a server; a guesser must not learn that."""

    status = "Could not determine server"
    reply = Rejected.reply
    pop3_code = Rejected.pop3_code
    imap4_code = Rejected.imap4_code
    everyday = True


class MapUnavailable(Failure):
    """The popmap could not be asked: the user may be in it, so no other server is used."""

    status = "Could not determine server: popmap unavailable"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"


class LocalAuthenticationFailed(Failure):
    """PAM does not accept the user or the password."""

    status = "local authentication failure"
    reply = Rejected.reply
    pop3_code = Rejected.pop3_code
    imap4_code = Rejected.imap4_code
    everyday = True


class LocalAuthenticationUnavailable(Failure):
    """PAM could not be asked, or does not answer."""

    status = "local authentication failure: unavailable"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"


class ConnectFailed(Failure):
    """The real server's name or address leads nowhere, or nobody answers there."""

    status = "Could not connect to server"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"
    another_server = True
    goodbye = False


class NegotiationFailed(Failure):
    """The real server does not speak its protocol, is closing down, or takes too long."""

    status = "Connection Negotiation Failure"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"


class ServerGone(NegotiationFailed):
    """The real server has closed the connection, or does not answer."""

    goodbye = False


class MechanismUnavailable(Failure):
    """The real server offers no way to log in that we have."""

    status = "SASL mechanism unavailable"
    pop3_code = "SYS/PERM"
    imap4_code = "CANNOT"
    goodbye = False
