"""What TLS needs from before the fork: contexts, and the files that they are renewed from."""

from typing import TYPE_CHECKING

from perdition.configuration import read_file
from perdition.failure import StartupError
from perdition.option_kinds import TLSUse
from perdition.options import Options

if TYPE_CHECKING:
    from perdition.net.tls_listening import ListeningTLS
    from perdition.net.tls_outgoing import OutgoingTLS


class Encryption:
    """TLS on both sides, each where the options want it; its libraries come in only then.

    ``files`` are those that certificates are renewed from. ``remarks`` are for the log.
    """

    def __init__(self, options: Options) -> None:
        """Read all that is needed; raises StartupError."""
        self.options = options
        self.files: list[str] = []
        self.listening: ListeningTLS | None = None
        self.outgoing: OutgoingTLS | None = None
        self.remarks: list[str] = []
        if options.tls.listen is not TLSUse.NONE:
            self.prepare_listening()
        if options.tls.outgoing is not TLSUse.NONE:
            from perdition.net import tls_outgoing

            self.outgoing = tls_outgoing.OutgoingTLS(options)
        if self.listening or self.outgoing:
            from perdition.net import tls

            self.remarks = tls.remarks(options)

    def prepare_listening(self) -> None:
        """Read certificates and keys, and ask for a passphrase if a key has one."""
        from perdition.net import tls_listening

        files = {}
        for path, name in tls_listening.listening_files(self.options).items():
            try:
                files[path] = read_file(path)
            except StartupError as error:
                raise StartupError(f"{name} {error}") from error
        self.files = list(files)
        passphrase = ""
        if any(b"ENCRYPTED" in files[key] for key in self.options.ssl_key_file):
            passphrase = tls_listening.read_passphrase(self.options)
        self.listening = tls_listening.ListeningTLS(self.options, files, passphrase)

    def renew(self, files: dict[str, bytes]) -> None:
        """Show clients what is in the files now; raises StartupError, and then changes nothing."""
        assert self.listening
        self.listening.load(files)
