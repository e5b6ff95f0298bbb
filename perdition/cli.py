"""The command line: parses it, then shows help, runs --lookup, or starts perdition."""

import os
import socket
import sys
from collections.abc import Iterator
from typing import NoReturn

from perdition.configuration import Configuration
from perdition.failure import StartupError
from perdition.log import Log, fault, open_sink
from perdition.option_kinds import FLAG
from perdition.options import OPTIONS, SHORT, Given, Options

STDIN, STDERR = 0, 2

LOOKUP_ERROR = 2
"""The exit status of ``--lookup`` if the answer is unknown."""
INTERRUPTED = 130
"""The exit status by which shells recognise a program that was ended by Ctrl-C."""


def main(argv: list[str]) -> int:
    """Run perdition and return the exit status; ``argv[0]`` is the name that it was called by."""
    open_standard_streams()
    name = os.path.basename(argv[0])
    log = Log(name, open_sink("mail"))
    try:
        command_line = parse(argv[1:])
        if command_line.values.get("help"):
            print(usage(name), end="")
            return os.EX_OK
        if facility := command_line.values.get("log_facility"):
            log = Log(name, open_sink(facility))
        configuration = Configuration(name, command_line)
        options = configuration.read()
        if options.lookup is not None:
            look_up(name, options.lookup, options)
        sink = log.sink if options.log_facility == facility else open_sink(options.log_facility)
        log = Log(name, sink, options.debug, options.quiet)
        for remark in configuration.remarks:
            log.warning(remark)
        return run(configuration, options, log)
    except StartupError as error:
        log.error(str(error))
        if not (log.sink.descriptor == STDERR or socket_family(STDERR)):  # inetd's is the client
            print(f"{name}: {error}", file=sys.stderr)
        return LOOKUP_ERROR if "--lookup" in " ".join(argv) else os.EX_USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - one line is more use than a traceback
        log.error(f"cannot start: {fault(error)}: {error}")
        print(f"{name}: cannot start: {fault(error)}: {error}", file=sys.stderr)
        return os.EX_SOFTWARE


def open_standard_streams() -> None:
    """Open the null device for each standard stream that is closed.

    Otherwise the next descriptor opened would get its number: a library that writes to standard
    error would then write to, for example, a client's connection.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free number: its own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w"))


def run(configuration: Configuration, options: Options, log: Log) -> int:
    """Run in the requested mode and return the exit status; raises StartupError.

    If standard input is a TCP connection and no option asks for the foreground, inetd has started
    perdition.
    """
    has_client = socket_family(STDIN) in (socket.AF_INET, socket.AF_INET6)
    if options.inetd_mode or (has_client and not options.foreground):
        from perdition.process import inetd

        return inetd.run(configuration.name, options, log)
    from perdition.process.master import Master

    return Master(configuration, options, log).run()


def look_up(name: str, users: str, options: Options) -> NoReturn:
    """Run ``--lookup`` and end the process with its status; raises StartupError."""
    from perdition import lookup

    status = lookup.run(name, users, options)
    sys.stdout.flush()
    os._exit(status)  # without waiting for threads that hang in a popmap


def socket_family(descriptor: int) -> int:
    """Return the address family of a socket; AF_UNSPEC for any other descriptor."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            return sock.family
    except OSError:
        return socket.AF_UNSPEC


def parse(arguments: list[str]) -> Given:
    """Parse ``--name value``, ``--name=value``, ``-nvalue``, ``-n value`` and joined flags.

    Raises StartupError.
    """
    given = Given()
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--") and len(argument) > 2:
            name, equals, value = argument[2:].partition("=")
            if name not in OPTIONS:
                raise StartupError(f"--{name}: no such option; see --help")
            if OPTIONS[name].kind is not FLAG:
                given.add(name, value if equals else next(rest, None))
            elif equals:
                raise StartupError(f"--{name}: takes no value; remove it")
            else:
                given.add(name, None)
        elif argument.startswith("-") and argument not in ("-", "--"):
            parse_short(argument[1:], rest, given)
        else:
            raise StartupError(f"{argument}: expected an option; see --help")
    return given


def parse_short(letters: str, rest: Iterator[str], given: Given) -> None:
    """Parse joined flags, the last of which may be an option with a value."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in SHORT:
            raise StartupError(f"-{letter}: no such option; see --help")
        name = SHORT[letter]
        if OPTIONS[name].kind is FLAG:
            given.add(name, None)
        else:
            given.add(name, letters or next(rest, None))
            return


def usage(name: str) -> str:
    """Return the text of ``--help``."""
    import textwrap

    lines = [
        f"Usage: {name} [option...]",
        "",
        "Options (in the configuration file, without the dashes):",
    ]
    for long, option in OPTIONS.items():
        head = f"-{option.short}, " if option.short else "    "
        head += f"--{long}" + (f" {option.kind.argument}" if option.kind.argument else "")
        shown = option.derived or option.kind.show(option.default)
        lines += ["", f"  {head}"]
        lines += textwrap.wrap(
            f"{option.says} (default: {shown})",
            88,
            initial_indent=" " * 8,
            subsequent_indent=" " * 8,
            break_on_hyphens=False,
        )
    return "\n".join(lines) + "\n"
