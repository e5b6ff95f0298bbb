"""The types of option values: how each is parsed, displayed and combined."""

import os
import re
import socket
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from perdition.endpoint import MAX_PORT, Endpoint, parse_endpoints
from perdition.options.values import (
    STATE_NAMES,
    TLS_VERSIONS,
    LogPassword,
    SSLMode,
    States,
    TLSUse,
    is_number,
)
from perdition.protocol import SERVICES

T = TypeVar("T")


class OptionType(NamedTuple, Generic[T]):
    """The type of an option's values.

    ``parse`` raises ValueError with a text that says what is expected. ``add`` combines the values
    of an option that is given several times; without it the last value is used.
    """

    argument: str
    parse: Callable[[str], T]
    show: Callable[[T], str] = str
    add: Callable[[T, T], T] | None = None


SWITCH_WORDS = {
    **dict.fromkeys(("on", "yes", "true", "1"), True),
    **dict.fromkeys(("off", "no", "false", "0"), False),
}


QUERY_KEY_CODES = "UuDdiIpP\\"


def parse_switch(text: str) -> bool:
    if text.lower() not in SWITCH_WORDS:
        raise ValueError("on or off")
    return SWITCH_WORDS[text.lower()]


def parse_number(text: str) -> int:
    if not (is_number(text) and len(text) < 10):
        raise ValueError("a number of up to nine digits")
    return int(text)


def parse_states(text: str) -> States:
    names = text.lower().split(",") if text else []
    if unknown := [name for name in names if name not in STATE_NAMES]:
        raise ValueError(f"a list of {', '.join(STATE_NAMES)}; unknown: {unknown[0]!r}")
    return States(frozenset().union(*(STATE_NAMES[name] for name in names)))


def parse_states_and_depth(text: str) -> States:
    names, _, depth = text.rpartition(",")
    if not is_number(depth):
        return parse_states(text)
    return States(parse_states(names).states, parse_number(depth))


def parse_path(text: str) -> str:
    if not text or os.path.isabs(text):
        return text
    try:
        return os.path.join(os.getcwd(), text)
    except OSError:
        raise ValueError("an absolute path, because the current directory was deleted") from None


def parse_line(text: str) -> str:
    if any(character in text for character in "\r\n"):
        raise ValueError("a single line")
    return text


def parse_port(text: str) -> str:
    if is_number(text):
        valid = 0 < int(text) <= MAX_PORT
    else:
        try:
            valid = not text or bool(socket.getservbyname(text, "tcp"))
        except OSError:
            valid = False
    if not valid:
        raise ValueError(f"a service name, or a port number up to {MAX_PORT}")
    return text


def parse_servers(text: str) -> tuple[Endpoint, ...]:
    endpoints = parse_endpoints(text)
    for endpoint in endpoints:
        parse_port(endpoint.port)
        if "[" in endpoint.host or not endpoint.host:
            raise ValueError("server, server:port or [address]:port, separated by commas")
    return endpoints


def parse_protocol(text: str) -> str:
    if text.upper() not in SERVICES:
        raise ValueError(f"one of {', '.join(SERVICES)}")
    return text.upper()


def parse_log_password(text: str) -> LogPassword:
    try:
        return LogPassword(text.lower())
    except ValueError:
        raise ValueError("one of " + ", ".join(choice.value for choice in LogPassword)) from None


def parse_ssl_mode(text: str) -> SSLMode:
    """Parse a list of modes; ``all`` means both sides, ``*_force`` overrides the plain mode."""
    sides: dict[str, set[TLSUse]] = {"listen": set(), "outgoing": set()}
    for name in text.lower().split(",") if text else []:
        if name == "none":
            continue
        use, _, rest = name.partition("_")
        side, _, force = rest.partition("_")
        if (
            use not in ("ssl", "tls")
            or side not in ("listen", "outgoing", "all")
            or force not in ("", "force")
            or (use == "ssl" and force)
        ):
            raise ValueError(
                "none, or a list of ssl_listen, ssl_outgoing, ssl_all, tls_listen, "
                "tls_outgoing, tls_all, tls_listen_force, tls_outgoing_force, tls_all_force; "
                f"unknown: {name!r}"
            )
        for chosen in sides if side == "all" else (side,):
            sides[chosen].add(TLSUse(f"{use}_force" if force else use))
    return SSLMode(*(one_use(side, uses) for side, uses in sides.items()))


def one_use(side: str, uses: set[TLSUse]) -> TLSUse:
    """Return the stricter of the uses given for a side; raises ValueError."""
    if TLSUse.SSL in uses and len(uses) > 1:
        raise ValueError(f"either ssl_{side} or tls_{side}, not both")
    return max(uses, key=lambda use: len(use.value), default=TLSUse.NONE)


def parse_formats(text: str) -> tuple[str, ...]:
    """Parse a list for ``query_key``; unknown codes are errors, so that lookups need not check."""
    for code in re.findall(r"\\(.?)", text):
        if code not in tuple(QUERY_KEY_CODES):
            raise ValueError(f"formats with one of {' '.join(QUERY_KEY_CODES)} after each \\")
    return tuple(text.split(",")) if text else ()


def parse_version(text: str) -> str:
    if text and text.lower() not in TLS_VERSIONS:
        raise ValueError(f"one of {', '.join(TLS_VERSIONS)}")
    return text.lower()


def parse_lowest_version(text: str) -> str:
    if not text:
        raise ValueError(f"one of {', '.join(TLS_VERSIONS)}; it must not be empty")
    return parse_version(text)


def parse_absolute_path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("an absolute path, or an empty value")
    return text


def parse_metrics_address(text: str) -> Endpoint | str | None:
    if text.startswith("/"):
        return text
    endpoint = Endpoint.parse(text)
    if text and not endpoint.port:
        raise ValueError("a host and a port, as in 127.0.0.1:9100, or an absolute path")
    return endpoint if text else None


def parse_one_or_more(text: str) -> int:
    if not (number := parse_number(text)):
        raise ValueError("a number of at least 1")
    return number


def quoted(value: object) -> str:
    return f'"{"" if value is None else value}"'


PLAIN_NAME = re.compile(r"[\w./+-]*")


def without_secrets(value: str) -> str:
    """Return the value of ``map_library_opt`` for the log.

    Only the popmap knows where it contains a password, so anything but a plain name is hidden.
    """
    return quoted(value if PLAIN_NAME.fullmatch(value) else "(not shown: may contain a password)")


def joined(parts: Iterable[object]) -> str:
    return quoted(",".join(map(str, parts)))


def text(argument: str, parse: Callable[[str], str] = parse_line) -> OptionType[Any]:
    """Return a type for texts; None is a default that is derived elsewhere."""
    return OptionType(argument, parse, quoted)


def states(argument: str, parse: Callable[[str], States]) -> OptionType[States]:
    return OptionType(argument, parse, quoted, States.__or__)


FLAG = OptionType("", parse_switch, lambda value: "on" if value else "off")
STRING = text("STRING")
FILE = text("FILENAME", parse_path)
PORT = text("PORT", parse_port)
PATH: OptionType[Any] = OptionType("FILENAME", parse_absolute_path, quoted)
FILES: OptionType[tuple[str, ...]] = OptionType(
    "FILENAME", lambda text: (parse_path(text),), joined, tuple.__add__
)
DEPTH = OptionType("DEPTH", parse_number)
DESCRIPTOR: OptionType[Any] = OptionType(
    "N", parse_number, lambda value: "" if value is None else str(value)
)
MAP_OPTION = OptionType("STRING", str, without_secrets)
SECONDS = OptionType("SECONDS", parse_number)
TIME_LIMIT = OptionType("SECONDS", parse_one_or_more)
COUNT = OptionType("LIMIT", parse_number)
WORKERS = OptionType("NUMBER", parse_one_or_more)
ENDPOINTS: OptionType[tuple[Endpoint, ...]] = OptionType(
    "SERVER[,SERVER...]", parse_servers, joined
)
METRICS_ADDRESS: OptionType[Any] = OptionType("HOST:PORT|FILENAME", parse_metrics_address, quoted)
STATES = states("STATE[,STATE...]", parse_states)
STATES_AND_DEPTH = states("STATE[,STATE...][,STRIP_DEPTH]", parse_states_and_depth)
PROTOCOL: OptionType[Any] = OptionType("PROTOCOL", parse_protocol, quoted)
SSL_MODE: OptionType[Any] = OptionType("MODE[,MODE...]", parse_ssl_mode, quoted)
FORMATS: OptionType[tuple[str, ...]] = OptionType("FORMAT[,FORMAT...]", parse_formats, joined)
VERSION: OptionType[Any] = OptionType("VERSION", parse_version, quoted)
LOWEST_VERSION: OptionType[Any] = OptionType("VERSION", parse_lowest_version, quoted)
LOG_PASSWORD = OptionType("STATE", parse_log_password, lambda value: quoted(value.value))
