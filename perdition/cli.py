"""The command line: parses it and runs the mode that it asks for."""

import os
import socket
import sys
from collections.abc import Iterator
from typing import NoReturn

from perdition.failure import StartupError
from perdition.log import Log, describe_error, open_sink
from perdition.options.configuration import Configuration
from perdition.options.option_types import FLAG
from perdition.options.table import OPTIONS, SHORT, GivenOptions, Options

STDIN, STDERR = 0, 2

LOOKUP_ERROR = 2
"""Exit status of ``--lookup`` for an error in the options, as for an unavailable popmap."""

INTERRUPTED = 130
"""Exit status of a program that was interrupted by Ctrl-C, by the convention of shells."""


def main(argv: list[str]) -> int:
    """Run perdition and return the exit status; ``argv[0]`` is the name that it was called by."""
    open_standard_streams()
    name = os.path.basename(argv[0])
    log = Log(name, open_sink("mail"))
    command_line = GivenOptions()
    try:
        parse(argv[1:], command_line)
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
        for warning in configuration.warnings:
            log.warning(warning)
        return run(configuration, options, log)
    except StartupError as error:
        report(name, str(error), log)
        return LOOKUP_ERROR if "lookup" in command_line.values else os.EX_USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - one line is more useful than a traceback
        report(name, f"cannot start: {describe_error(error)}: {error}", log)
        return os.EX_SOFTWARE


def report(name: str, message: str, log: Log) -> None:
    """Log an error, and print it on standard error unless that is the log or inetd's client."""
    log.error(message)
    if not (log.sink.descriptor == STDERR or socket_family(STDERR)):
        print(f"{name}: {message}", file=sys.stderr)


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed.

    Otherwise the next descriptor, perhaps a client's connection, would be used as that stream.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(
                os.devnull, os.O_RDWR
            )  # gets the lowest free number, which is that of the stream
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w"))


def run(configuration: Configuration, options: Options, log: Log) -> int:
    """Run as a daemon or in inetd mode, and return the exit status; raises StartupError.

    inetd mode is also used if standard input is a TCP connection and no option says otherwise.
    """
    has_client = socket_family(STDIN) in (socket.AF_INET, socket.AF_INET6)
    if options.inetd_mode or (has_client and not options.foreground):
        from perdition.process import inetd

        return inetd.run(configuration.name, options, log)
    from perdition.process.master import Master

    return Master(configuration, options, log).run()


def look_up(name: str, users: str, options: Options) -> NoReturn:
    """Run ``--lookup``, and exit with its status; raises StartupError."""
    from perdition import lookup_command

    status = lookup_command.run(name, users, options)
    sys.stdout.flush()
    os._exit(status)  # without waiting for threads of a popmap that hangs


def socket_family(descriptor: int) -> int:
    """Return the address family of a socket, or AF_UNSPEC if it is not a socket."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            return sock.family
    except OSError:
        return socket.AF_UNSPEC


def parse(arguments: list[str], given: GivenOptions | None = None) -> GivenOptions:
    """Read ``--name value``, ``--name=value``, ``-nvalue``, ``-n value`` and bundled flags.

    Raises StartupError for the first error, after adding all other arguments to ``given``.
    """
    given = GivenOptions() if given is None else given
    mistakes = []
    rest = iter(arguments)
    for argument in rest:
        try:
            if argument.startswith("--") and len(argument) > 2:
                parse_long(argument[2:], rest, given)
            elif argument.startswith("-") and argument not in ("-", "--"):
                parse_short(argument[1:], rest, given)
            else:
                raise StartupError(f"{argument}: expected an option; see --help")
        except StartupError as mistake:
            mistakes.append(mistake)
    if mistakes:
        raise mistakes[0]
    return given


def parse_long(text: str, rest: Iterator[str], given: GivenOptions) -> None:
    """Add ``name``, ``name=value`` or ``name`` with its value in the next argument."""
    name, equals, value = text.partition("=")
    if name not in OPTIONS:
        raise StartupError(f"--{name}: no such option; see --help")
    if OPTIONS[name].type is not FLAG:
        given.add(name, value if equals else next(rest, None))
    elif equals:
        raise StartupError(f"--{name}: takes no value; remove it")
    else:
        given.add(name, None)


def parse_short(letters: str, rest: Iterator[str], given: GivenOptions) -> None:
    """Add flags by their letters; the last letter may be an option that takes a value."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in SHORT:
            raise StartupError(f"-{letter}: no such option; see --help")
        name = SHORT[letter]
        if OPTIONS[name].type is FLAG:
            given.add(name, None)
        else:
            given.add(name, letters or next(rest, None))
            return


def usage(name: str) -> str:
    """Return the text of ``--help``: every option, what it does, and its default."""
    import textwrap

    lines = [
        f"Usage: {name} [option...]",
        "",
        "Options (in the configuration file, without the dashes):",
    ]
    for long, option in OPTIONS.items():
        head = f"-{option.short}, " if option.short else "    "
        head += f"--{long}" + (f" {option.type.argument}" if option.type.argument else "")
        shown = option.derived or option.type.show(option.default)
        lines += ["", f"  {head}"]
        lines += textwrap.wrap(
            f"{option.says} (default: {shown})",
            88,
            initial_indent=" " * 8,
            subsequent_indent=" " * 8,
            break_on_hyphens=False,
        )
    return "\n".join(lines) + "\n"
