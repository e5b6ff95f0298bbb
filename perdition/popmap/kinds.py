"""The kinds of popmaps, and how ``map_library`` selects one."""

import re
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from perdition.failure import StartupError
from perdition.log import Log, describe_error
from perdition.options.table import Options
from perdition.popmap import NoMap, PopMap

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

ENTRY_POINTS = "perdition.popmaps"
"""The entry point group for kinds of other Python packages; each is an ``open_map`` function."""

C_LIBRARY = re.compile(r"(?:.*/)?libperditiondb_(\w+)\.so[\d.]*")


class MapKind(NamedTuple):
    """A module with an ``open_map``, and what to install if one of its imports is missing."""

    module: str
    needs: str = ""


def in_package(name: str, library: str) -> str:
    """Return what to install for a kind that is in a separate package."""
    return f"the package perdition-{name} (for a checkout {library}, or perdition[{name}] by pip)"


KINDS = {
    "gdbm": MapKind("gdbm", "Debian's python3-gdbm"),
    "bdb": MapKind("bdb", "Debian's python3-bsddb3, or perdition[bdb] by pip"),
    "cdb": MapKind("cdb"),
    "sqlite": MapKind("sqlite"),
    "posix_regex": MapKind("posix_regex"),
    "mysql": MapKind("mysql", in_package("mysql", "python3-pymysql")),
    "postgresql": MapKind("postgresql", in_package("postgresql", "python3-psycopg")),
    "odbc": MapKind("odbc", in_package("odbc", "python3-pyodbc")),
    "ldap": MapKind("ldap", in_package("ldap", "python3-ldap")),
    "redis": MapKind("redis", "Debian's python3-redis, or perdition[redis] by pip"),
    "http": MapKind("auth_http"),
    "daemon": MapKind("daemon"),
    "nis": MapKind("nis"),
}
"""The values of ``--map_library``. A module is imported only when it is used."""


def open_map(options: Options) -> PopMap:
    """Open the popmap that the options name; raises StartupError."""
    popmap = open_library(options)
    if popmap.wants_password and options.map_cache:
        raise StartupError(
            "map_cache: cannot be combined with a popmap that verifies passwords; remove map_cache"
        )
    return popmap


def open_at_start(options: Options, log: Log) -> PopMap:
    """Open the popmap for the first time and check it; raises StartupError."""
    popmap = open_map(options)
    popmap.check()
    if popmap.must_be_valid:
        popmap.probe()
    if popmap.start_notice:
        log.notice(popmap.start_notice)
    return popmap


def open_changed_map(options: Options, previous: Options, log: Log) -> PopMap:
    """Open the popmap that new options name and check it; raises StartupError.

    If the options name another popmap, it must be usable now. A problem with the file of an
    unchanged one is only logged: the file may be missing while it is rewritten, and workers
    keep the previous content of a file with a mistake.
    """
    popmap = open_map(options)
    popmap.check()
    before = (previous.map_library, previous.map_library_opt)
    try:
        popmap.probe()
    except StartupError as error:
        if (options.map_library, options.map_library_opt) != before:
            raise
        log.error(str(error))
    return popmap


def open_after_reload(options: Options, previous: PopMap) -> PopMap:
    """Open the popmap again, in a worker; raises StartupError.

    Returns the previous one if it is in a file and has the same options, because its content
    continues to be used while a changed file has an error.
    """
    popmap = open_map(options)
    return previous if popmap.reads_same_file(previous) else popmap


def open_library(options: Options) -> PopMap:
    """Open the popmap that ``map_library`` names; raises StartupError."""
    library = options.map_library
    if not library:
        return NoMap()
    named = C_LIBRARY.fullmatch(library)
    name = named[1] if named else library
    if kind := KINDS.get(name):
        return open_kind(name, kind, options)
    for entry_point in external_entry_points(library):
        return open_external(entry_point, options)
    if "/" in library or ".so" in library:
        from perdition.popmap.backends import c_library

        return c_library.open_map(library, options)
    raise StartupError(
        f"map_library {library}: unknown kind of popmap; expected one of "
        f"{', '.join(KINDS)}, or the path of a C library; an empty value: no popmap"
    )


def external_entry_points(library: str) -> "EntryPoints":
    """Return other packages' kinds of that name. It takes a third of the startup under inetd."""
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINTS, name=library)


def open_external(entry_point: "EntryPoint", options: Options) -> PopMap:
    """Open a popmap of another package's kind; raises StartupError, also for its exceptions."""
    try:
        opener = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise StartupError(
            f"map_library {entry_point.name}: {error}; repair or remove the package"
        ) from error
    try:
        popmap: PopMap = opener(options)
    except StartupError:
        raise
    except Exception as error:
        raise StartupError(
            f"map_library {entry_point.name}: {describe_error(error)}; "
            "check map_library_opt and its package"
        ) from error
    return popmap


def open_kind(name: str, kind: MapKind, options: Options) -> PopMap:
    """Open a popmap of a built-in kind; raises StartupError, also if a library is missing."""
    try:
        module = import_module(f"perdition.popmap.backends.{kind.module}")
    except ModuleNotFoundError as error:
        raise StartupError(
            f"map_library {name}: no module {error.name}; install {kind.needs}"
        ) from error
    try:
        popmap: PopMap = module.open_map(options)
    except StartupError:
        raise
    except Exception as error:  # of a library; its text may contain a password
        raise StartupError(
            f"map_library_opt: malformed for {name} ({type(error).__name__}); see perditiondb(5)"
        ) from error
    return popmap
