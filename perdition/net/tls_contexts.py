"""The TLS contexts of both sides, created before the fork."""

from typing import TYPE_CHECKING

from perdition.failure import StartupError
from perdition.files import read_file
from perdition.options.table import Options
from perdition.options.values import TLSUse

if TYPE_CHECKING:
    from perdition.net.tls_listening import ListeningTLS
    from perdition.net.tls_outgoing import OutgoingTLS


class TLSContexts:
    """TLS with clients and with real servers, as far as the options use it.

    TLS libraries are imported only if the options use TLS. The ``files`` are read again at a
    reload; the ``warnings`` are for the log.
    """

    def __init__(self) -> None:
        self.listening: ListeningTLS | None = None
        self.outgoing: OutgoingTLS | None = None
        self.files: list[str] = []
        self.warnings: list[str] = []

    @classmethod
    def load(cls, options: Options) -> "TLSContexts":
        """Read certificates, keys and authorities; raises StartupError."""
        contexts = cls()
        if options.tls.listen is not TLSUse.NONE:
            contexts.load_listening(options)
        if options.tls.outgoing is not TLSUse.NONE:
            from perdition.net import tls_outgoing

            contexts.outgoing = tls_outgoing.OutgoingTLS(options)
        if contexts.listening or contexts.outgoing:
            from perdition.net import tls

            contexts.warnings = tls.warnings(options)
        if contexts.listening:
            contexts.warnings += contexts.listening.warnings
        return contexts

    def load_listening(self, options: Options) -> None:
        """Read certificates and keys, and a passphrase if a key is encrypted."""
        from perdition.net import tls_listening

        content = {}
        for path, name in tls_listening.listening_files(options).items():
            try:
                content[path] = read_file(path)
            except StartupError as error:
                raise StartupError(f"{name} {error}") from error
        self.files = list(content)
        passphrase = ""
        if any(b"ENCRYPTED" in content[key] for key in options.ssl_key_file):
            passphrase = tls_listening.read_passphrase(options)
        self.listening = tls_listening.ListeningTLS(options, content, passphrase)
