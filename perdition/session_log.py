"""The three log lines of each session: Connect, Auth and Close (see LOG in perdition(8))."""

from typing import NamedTuple

from perdition.endpoint import Security
from perdition.log import printable


class LoginRecord(NamedTuple):
    """The content of an Auth line. ``password`` is None if it must not be logged."""

    authorisation: str
    user: str
    server: str
    protocol: str
    client_security: Security
    server_security: Security
    status: str
    password: str | None = None

    def __repr__(self) -> str:
        return f"LoginRecord(user={self.user!r}, status={self.status!r})"  # without the password


def connect_line(ends: object, inetd_pid: int = 0) -> str:
    """Return the line for a new connection."""
    return f"Connect: {ends}" + (f" {inetd_pid=}" if inetd_pid else "")


def identities(authorisation: str, user: str) -> str:
    """Return the user's part of Auth and Close lines; NONE means no authorisation id."""
    authorised = f'"{printable(authorisation)}"' if authorisation else "NONE"
    return f'authorisation_id={authorised} authentication_id="{printable(user)}"'


def auth_line(ends: object, login: LoginRecord) -> str:
    """Return the line for a login, successful or failed."""
    password = "" if login.password is None else f' password="{printable(login.password)}"'
    return (
        f"Auth: {ends} client-secure={login.client_security} "
        f"{identities(login.authorisation, login.user)}{password} "
        f'server="{printable(login.server)}" protocol={login.protocol} '
        f"server-secure={login.server_security} status={login.status}"
    )


def close_line(
    ends: object, authorisation: str, user: str, transferred: tuple[int, int] | None
) -> str:
    """Return the line for a closed connection.

    ``transferred`` are the bytes received from the client and sent to it after its login, if any.
    """
    counts = "" if transferred is None else f" received={transferred[0]} sent={transferred[1]}"
    return f"Close: {ends} {identities(authorisation, user)}{counts}"
