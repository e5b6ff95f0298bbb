"""The failures of a login, from the client's credentials to the real server's reply.

Each class has the status for the log, the reply to the client with the response code of each
protocol (RFC 3206, 5530, 5804), the label of its metric, and whether another server may be tried.
"""

from typing import ClassVar

from perdition.endpoint import Security


class StartupError(Exception):
    """perdition cannot start. The text is one line: the option or file, and the remedy."""


FAILURES: list[type["Failure"]] = []
"""All failures in the order of this file, which is the order of their counters."""


class Failure(Exception):
    """A login that failed. ``detail`` is for the operator's log, never for the client."""

    label: ClassVar[str]
    """The value of the label "result" in metrics."""
    status: str
    reply: str
    pop3_code: ClassVar[str] = ""
    imap4_code: ClassVar[str] = ""
    managesieve_code: ClassVar[str] = ""
    try_next_server: ClassVar[bool] = False
    """No credentials were sent yet, so the next of several servers may be tried."""
    user_error: ClassVar[bool] = False
    """Wrong credentials: the login counts as a guess; the detail is logged with ``debug`` only."""
    forwards_reply: ClassVar[bool] = False
    """The client gets the real server's reply, with its response code."""
    send_logout: ClassVar[bool] = True
    """Send QUIT or LOGOUT before the connection to the real server is closed."""

    def __init__(
        self,
        detail: str = "",
        server_line: bytes = b"",
        untagged: bytes = b"",
        reply: str = "",
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.server_line = server_line
        self.untagged = untagged
        if reply:
            self.reply = reply
        self.server_security = Security.PLAINTEXT
        """That of the connection to the real server when the login failed."""

    def __init_subclass__(cls) -> None:
        """Register the class. The reply is the status unless the class has its own."""
        FAILURES.append(cls)
        if "status" in cls.__dict__ and "reply" not in cls.__dict__:
            cls.reply = cls.status


class LoginDisabled(Failure):
    """Logins are disabled (``login_disabled``)."""

    label = "login_disabled"
    status = "Login Disabled"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"


class TLSNotPresent(Failure):
    """TLS is required, but the client does not use it."""

    label = "tls_not_present"
    status = "TLS not present"
    imap4_code = "PRIVACYREQUIRED"
    managesieve_code = "ENCRYPT-NEEDED"


class ServerTLSNotPresent(Failure):
    """TLS is required, but the real server does not offer it; the client cannot change that."""

    label = "server_tls_not_present"
    status = TLSNotPresent.status
    reply = "The mail server is not available"
    pop3_code = "SYS/PERM"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"


class Rejected(Failure):
    """The real server rejects the credentials, or they cannot be sent to it."""

    label = "rejected"
    status = "Re-Authentication Failure"
    pop3_code = "AUTH"
    imap4_code = "AUTHENTICATIONFAILED"
    user_error = True


class ServerRefused(Failure):
    """The real server refuses the login, but not because of the credentials."""

    label = "server_refused"
    status = "server refused"
    forwards_reply = True

    def __init__(
        self, reply_for_log: str = "", server_line: bytes = b"", untagged: bytes = b""
    ) -> None:
        """``reply_for_log`` is the real server's reply as it may be logged."""
        super().__init__(server_line=server_line, untagged=untagged)
        self.status = f"{ServerRefused.status}: {reply_for_log}"


class ConnectedToItself(Failure):
    """The real server's greeting is our own: perdition has connected to itself."""

    label = "loop"
    status = "Connection Loop"
    pop3_code = "SYS/PERM"
    imap4_code = "SERVERBUG"


class NoServer(Failure):
    """Neither the popmap nor an option names a server; the reply must not reveal that."""

    label = "no_server"
    status = "Could not determine server"
    reply = Rejected.reply
    pop3_code = Rejected.pop3_code
    imap4_code = Rejected.imap4_code
    user_error = True


class MapUnavailable(Failure):
    """The popmap query failed. No other server is used, because the user may be in the popmap."""

    label = "map_unavailable"
    status = "Could not determine server: popmap unavailable"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"


class LocalAuthenticationFailed(Failure):
    """PAM rejects the user or the password."""

    label = "local_authentication_failed"
    status = "local authentication failure"
    reply = Rejected.reply
    pop3_code = Rejected.pop3_code
    imap4_code = Rejected.imap4_code
    user_error = True


class LocalAuthenticationUnavailable(Failure):
    """PAM is unavailable or did not answer in time."""

    label = "local_authentication_unavailable"
    status = "local authentication failure: unavailable"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"


class ConnectFailed(Failure):
    """The real server's name cannot be resolved, or no connection can be made."""

    label = "connect_failed"
    status = "Could not connect to server"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"
    try_next_server = True
    send_logout = False


class LoginTimedOut(Failure):
    """Popmap, PAM and the real server together took longer than ``login_timeout``."""

    label = "login_timeout"
    status = "Login Timeout"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"
    send_logout = False


class NegotiationFailed(Failure):
    """The real server's reply is invalid, or announces that it closes the connection."""

    label = "negotiation_failed"
    status = "Connection Negotiation Failure"
    pop3_code = "SYS/TEMP"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"


class ServerGone(NegotiationFailed):
    """The real server closed the connection or did not answer in time."""

    label = "server_gone"
    send_logout = False


class MechanismUnavailable(Failure):
    """The real server offers no authentication mechanism that perdition can use."""

    label = "mechanism_unavailable"
    status = "SASL mechanism unavailable"
    pop3_code = "SYS/PERM"
    imap4_code = "UNAVAILABLE"
    managesieve_code = "TRYLATER"
    send_logout = False
