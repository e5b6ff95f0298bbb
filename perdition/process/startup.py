"""Steps of a master's start: pid file, predecessor, need of a helper, first log lines."""

import os
import socket

from perdition import __version__
from perdition.failure import StartupError
from perdition.log import Log
from perdition.net.tls_contexts import TLSContexts
from perdition.options.configuration import Configuration
from perdition.options.table import Options
from perdition.privileges import Owner
from perdition.process.pid_file import PidFile
from perdition.process.takeover import Predecessor, TakeoverListener

RUN_DIRECTORY = "/var/run"


def find_pid_file(name: str, options: Options, owner: Owner) -> PidFile | None:
    """Return the pid file that the option names, or the manual's; None if it is empty."""
    path = options.pid_file
    if path is None:
        path = f"{RUN_DIRECTORY}/{name}/{name}.pid"
    return PidFile(path, owner) if path else None


def find_predecessor(options: Options, pid_file: PidFile | None) -> Predecessor | None:
    """Connect to the running master, if it is to be taken over; raises StartupError."""
    if not options.takeover:
        return None
    if not pid_file:
        raise StartupError("takeover: requires pid_file, set to that of the running instance")
    return Predecessor(pid_file.takeover_socket)


def prepare_pid_file(
    pid_file: PidFile | None, predecessor: Predecessor | None, options: Options, log: Log
) -> PidFile | None:
    """Check that the pid file can be written, and return it; raises StartupError.

    A user who cannot write to the default directory, and has named no other file, runs without
    one.
    """
    if not pid_file:
        return None
    try:
        if predecessor:
            pid_file.hold()
        else:
            pid_file.prepare()
    except StartupError as error:
        if options.pid_file or os.getuid() == 0:
            raise
        log.notice(f"running without a pid file: {error}")
        return None
    return pid_file


def listen_for_successors(
    pid_file: PidFile | None, inherited: socket.socket | None, log: Log
) -> TakeoverListener | None:
    """Listen next to the pid file, if there is one, or at the predecessor's socket."""
    if not pid_file:
        return None
    try:
        return TakeoverListener(pid_file.takeover_socket, inherited)
    except StartupError as error:
        log.notice(f"takeover will not be possible: {error}")
        return None


def needs_root(configuration: Configuration, tls: TLSContexts, owner: Owner) -> bool:
    """Return whether a reload may have to read a file that only root can read."""
    if os.getuid() != 0:
        return False
    path = configuration.path
    with owner.impersonated():
        is_unreadable = path and not os.access(path, os.R_OK, effective_ids=True)
    return bool(tls.files or is_unreadable)


def log_start(options: Options, tls: TLSContexts, log: Log) -> None:
    """Log the version, the options, and warnings."""
    if options.debug or not options.foreground:
        log.info(f"Starting perdition version={__version__} protocol={options.service.name}")
    log.info(options.logged())
    for warning in (*options.warnings(), *tls.warnings):
        log.warning(warning)
