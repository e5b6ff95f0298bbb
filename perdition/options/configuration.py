"""The effective options of command line and configuration file, at startup and after SIGHUP."""

import os
import socket
from collections.abc import Callable
from os import fsdecode

from perdition.failure import StartupError
from perdition.files import SYSCONFDIR, read_file
from perdition.options import config_file
from perdition.options.option_types import FLAG
from perdition.options.table import OPTIONS, SHORT, GivenOptions, Options, merge

Read = Callable[[str], bytes]

NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

NAMES = {
    "perdition.pop3": "POP3",
    "perdition.pop3s": "POP3S",
    "perdition.imap4": "IMAP4",
    "perdition.imap4s": "IMAP4S",
    "perdition.imaps": "IMAP4S",
    "perdition.managesieve": "MANAGESIEVE",
}
"""The protocols that perdition's invocation names imply."""


class Configuration:
    """The sources of the options. ``warnings`` are warnings of the last ``read``, for the log.

    ``path`` is the configuration file, "" if none has been found yet. The file found at startup is
    used until perdition exits. If it is missing at SIGHUP, that is an error: it was removed, or is
    in a directory that only root can search.
    """

    def __init__(self, name: str, command_line: GivenOptions) -> None:
        self.name = name
        self.command_line = command_line
        self.warnings: list[str] = []
        self.path = ""

    def find(self) -> str:
        """Return the configuration file's path: config_file, or the first default that exists.

        "" means that there is none. Raises StartupError if that cannot be determined.
        """
        named = self.command_line.values.get("config_file")
        if named is not None:
            return str(named)
        protocol = self.command_line.values.get("protocol") or NAMES.get(self.name, "POP3")
        for base in (self.name, f"perdition.{protocol.lower()}", "perdition"):
            path = f"{SYSCONFDIR}/{base}.conf"
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise StartupError(
                    f"config_file {path}: {error.strerror}; expected a readable file, "
                    "or an empty value for none"
                ) from error
            return path
        return ""

    def read(self, read: Read = read_file) -> Options:
        """Return the effective options; raises StartupError with the file and the line number."""
        self.warnings = []
        file = GivenOptions("")
        self.path = self.path or self.find()
        if self.path:
            self.read_entries(self.path, read(self.path), file)
        options = merge(self.command_line, file, NAMES.get(self.name))
        self.warnings += no_lookup_warnings(options)
        return options

    def read_entries(self, path: str, content: bytes, given: GivenOptions) -> None:
        """Add the entries of a configuration file to ``given``; raises StartupError."""
        try:
            entries = list(config_file.parse(fsdecode(content)))
        except config_file.SyntaxProblem as problem:
            raise StartupError(f"{path} line {problem.line}: {problem}; close it") from problem
        for entry in entries:
            where = f"{path} line {entry.line}: "
            name = SHORT.get(entry.key, entry.key)
            if name not in OPTIONS:
                raise StartupError(f"{where}{entry.key}: no such option; see perdition --help")
            option = OPTIONS[name]
            if not option.in_file:
                continue
            if entry.value is None and option.type is not FLAG:
                self.warnings.append(f"{where}{entry.key} has no value; its default is used")
                continue
            try:
                given.add(name, entry.value)
            except StartupError as error:
                raise StartupError(f"{where}{error}") from None

    def read_again(self, current: Options, read: Read) -> Options:
        """Return the options to use after SIGHUP; raises StartupError.

        Options that need a restart keep their current value, with a warning.
        """
        wanted = self.read(read)
        fixed = {
            name: getattr(current, name)
            for name, option in OPTIONS.items()
            if option.restart and getattr(current, name) != getattr(wanted, name)
        }
        if fixed:
            self.warnings.append(f"{', '.join(fixed)}: changed; restart perdition to apply this")
        return wanted.replace(**fixed)


def no_lookup_warnings(options: Options) -> list[str]:
    """Return warnings about names in the options for real servers if ``no_lookup`` is set.

    They do not prevent the start: the popmap may have numbers for all users.
    """
    if not options.no_lookup:
        return []
    servers = [(f"outgoing_server {server}", *server) for server in options.outgoing_server]
    ports = [(f"outgoing_port {options.outgoing_port}", "", options.outgoing_port)]
    return [
        f"no_lookup: {option}: expected {expected}; logins there will fail"
        for option, host, port in servers + ports
        if (expected := expected_number(host, port))
    ]


def expected_number(host: str, port: str) -> str:
    """Return what is expected in place of a name, or "" if host and port are numbers."""
    try:
        socket.getaddrinfo(host or None, port or "0", flags=NUMERIC)
    except (OSError, UnicodeError):
        return "an IP address and a port number" if host else "a port number"
    return ""
