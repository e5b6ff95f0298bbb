"""The command line: parses it and runs the mode that it asks for."""

import os
import socket
import sys
from collections.abc import Iterator
from typing import NoReturn

from perdition import __version__
from perdition.failure import StartupError
from perdition.files import STDERR, STDIN
from perdition.log import Log, describe_error, open_sink
from perdition.options.configuration import Configuration
from perdition.options.option_types import FLAG
from perdition.options.table import OPTIONS, SHORT, GivenOptions, Group, Option, Options

LOOKUP_ERROR = 2
"""Exit status of ``--lookup`` for an error in the options, as for an unavailable popmap."""

INTERRUPTED = 130
"""Exit status of a program that was interrupted by Ctrl-C, by the convention of shells."""


def main(name: str, arguments: list[str]) -> int:
    """Run perdition and return the exit status; ``name`` is the one that it was called by."""
    open_standard_streams()
    log = Log(name, open_sink("mail"))
    command_line = GivenOptions()
    try:
        parse(arguments, command_line)
        if shown := information(name, command_line):
            print(shown)
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
        report(name, f"internal error: {describe_error(error)}", log)
        return os.EX_SOFTWARE


def information(name: str, command_line: GivenOptions) -> str:
    """Return the text that ``--help`` or ``--version`` asks for, or "" without them."""
    if command_line.values.get("help"):
        return usage(name)
    return f"{name} {__version__}" if command_line.values.get("version") else ""


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
    """Return the text of ``--help``: each option on a line of its group."""
    lines = [
        f"Usage: {name} [option...]",
        "",
        f"Example: {name} --no_daemon -F + -m popmap.gdbm.db --outgoing_server 192.0.2.11",
        "",
        "Without dashes, options can be set in the configuration file, see perdition.conf(5).",
        "perdition(8) describes them in full.",
    ]
    for group in Group:
        lines += ["", f"{group.value}:"]
        lines += (usage_line(*item) for item in OPTIONS.items() if item[1].group is group)
    return "\n".join(lines)


def usage_line(name: str, option: Option) -> str:
    """Return an option's names, its argument, and the first sentence of its description."""
    names = f"-{option.short}, --{name}" if option.short else f"    --{name}"
    argument = option.type.argument.partition("[")[0]
    sentence = option.description.partition(". ")[0].removesuffix(".")
    return f"  {f'{names} {argument}'.rstrip():<36} {sentence}"
