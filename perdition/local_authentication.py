"""Local authentication (``authenticate_in``): PAM verifies the password first."""

from os import fsencode

from perdition.failure import LocalAuthenticationFailed, LocalAuthenticationUnavailable
from perdition.helper.client import HelperClient, HelperUnavailable
from perdition.options.table import Options

MAX_SECONDS = 60.0
"""Time limit for PAM where authenticate_timeout is 0 or longer."""

UNAVAILABLE_CODES = {
    1: "PAM_OPEN_ERR",
    2: "PAM_SYMBOL_ERR",
    3: "PAM_SERVICE_ERR",
    4: "PAM_SYSTEM_ERR",
    5: "PAM_BUF_ERR",
    9: "PAM_AUTHINFO_UNAVAIL",
    26: "PAM_ABORT",
    28: "PAM_MODULE_UNKNOWN",
}
"""Linux-PAM's errors for missing or broken modules or services, unrelated to the password."""


def pam_seconds(options: Options) -> float:
    """Return the time limit for PAM in one login."""
    return min(options.authenticate_timeout or MAX_SECONDS, MAX_SECONDS)


class LocalAuthentication:
    """Asks PAM through the helper."""

    def __init__(self, helper: HelperClient, seconds: float) -> None:
        self.helper = helper
        self.seconds = seconds

    @classmethod
    def wanted(cls, options: Options, helper: HelperClient | None) -> "LocalAuthentication | None":
        """Return the local authentication that the options ask for, if they do."""
        if not options.authenticate_in:
            return None
        assert helper
        return cls(helper, pam_seconds(options))

    async def verify(self, user: str, password: bytes, address: str) -> None:
        """Return if PAM accepts the password.

        Raises LocalAuthenticationFailed, or LocalAuthenticationUnavailable if PAM has no answer.
        """
        if b"\0" in password or "\0" in user:
            raise LocalAuthenticationFailed("the user name or the password contains NUL")
        try:
            code = await self.helper.login(fsencode(user), password, address.encode(), self.seconds)
        except HelperUnavailable as error:
            raise LocalAuthenticationUnavailable(str(error)) from error
        if code in UNAVAILABLE_CODES:
            raise LocalAuthenticationUnavailable(f"PAM error {code}: {UNAVAILABLE_CODES[code]}")
        if code:
            raise LocalAuthenticationFailed(f"PAM error {code}")
