"""Local authentication: whether PAM accepts a password, before the real server is asked."""

from os import fsencode

from perdition.failure import LocalAuthenticationFailed, LocalAuthenticationUnavailable
from perdition.helper_line import Asker, HelperGone

LONGEST_SECONDS = 60.0
"""How long PAM may take where authenticate_timeout sets no limit, or a longer one."""
CANNOT_TELL = (1, 2, 3, 4, 5, 9, 26, 28)
"""PAM's numbers for what is no verdict: modules and services that are missing or broken."""


def login_seconds(authenticate_timeout: int) -> float:
    """Return how long PAM may take over one login."""
    return min(authenticate_timeout or LONGEST_SECONDS, LONGEST_SECONDS)


class LocalAuthentication:
    """Asks PAM, by the helper."""

    def __init__(self, helper: Asker, authenticate_timeout: int) -> None:
        self.helper = helper
        self.seconds = login_seconds(authenticate_timeout)

    async def check(self, user: str, password: bytes, address: str) -> None:
        """Return if the password is right.

        Raises LocalAuthenticationFailed, or LocalAuthenticationUnavailable if nobody can tell.
        """
        if b"\0" in password or "\0" in user:
            raise LocalAuthenticationFailed("a NUL in the user name or the password")
        try:
            code = await self.helper.login(fsencode(user), password, address.encode(), self.seconds)
        except HelperGone as error:
            raise LocalAuthenticationUnavailable(str(error)) from error
        if code in CANNOT_TELL:
            raise LocalAuthenticationUnavailable(f"PAM cannot tell: its error {code}")
        if code:
            raise LocalAuthenticationFailed(f"PAM's error {code}")
