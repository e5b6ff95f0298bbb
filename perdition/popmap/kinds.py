"""The kinds of popmaps, and which one a site has."""

import re
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from perdition.failure import StartupError
from perdition.log import describe_error
from perdition.options.table import Options
from perdition.popmap import NoMap, PopMap

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

ENTRY_POINTS = "perdition.popmaps"
"""Where other Python packages offer kinds of their own; each is an ``open_map`` function."""

C_LIBRARY = re.compile(r"(?:.*/)?libperditiondb_(\w+)\.so[\d.]*")


class MapKind(NamedTuple):
    """A module with an ``open_map``, and what to install if what it imports is missing."""

    module: str
    needs: str = ""


def packaged(name: str, part: str) -> str:
    """Return what to install for a kind that has a package of its own beside perdition's."""
    return f"the package perdition-{name} (for a checkout {part}, or perdition[{name}] by pip)"


KINDS = {
    "gdbm": MapKind("gdbm", "Debian's python3-gdbm"),
    "bdb": MapKind("bdb", "Debian's python3-bsddb3, or perdition[bdb] by pip"),
    "cdb": MapKind("cdb"),
    "sqlite": MapKind("sqlite"),
    "posix_regex": MapKind("posix_regex"),
    "mysql": MapKind("mysql", packaged("mysql", "python3-pymysql")),
    "postgresql": MapKind("postgresql", packaged("postgresql", "python3-psycopg")),
    "odbc": MapKind("odbc", packaged("odbc", "python3-pyodbc")),
    "ldap": MapKind("ldap", packaged("ldap", "python3-ldap")),
    "redis": MapKind("redis", "Debian's python3-redis, or perdition[redis] by pip"),
    "http": MapKind("auth_http"),
    "daemon": MapKind("daemon"),
    "nis": MapKind("nis"),
}
"""What ``--map_library`` takes. A module is imported only when it is used."""


def open_map(options: Options) -> PopMap:
    """Open the popmap that a site has; raises StartupError if that cannot be one."""
    popmap = open_library(options)
    if popmap.wants_password and options.map_cache:
        raise StartupError(
            "map_cache: answers that depend on passwords are never used again; take it off"
        )
    return popmap


def open_library(options: Options) -> PopMap:
    """Open whichever popmap ``map_library`` names; raises StartupError."""
    library = options.map_library
    if not library:
        return NoMap()
    named = C_LIBRARY.fullmatch(library)
    name = named[1] if named else library
    if kind := KINDS.get(name):
        return open_kind(name, kind, options)
    for found in foreign_entry_points(library):
        return open_foreign(found, options)
    if "/" in library or ".so" in library:
        from perdition.popmap.backends import c_library

        return c_library.open_map(library, options)
    raise StartupError(
        f"map_library {library}: no such kind of popmap here; give one of "
        f"{', '.join(KINDS)}, the file of a C library, or nothing"
    )


def foreign_entry_points(library: str) -> "EntryPoints":
    """Return what other packages offer by that name; a third of inetd's start would go to this."""
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINTS, name=library)


def open_foreign(found: "EntryPoint", options: Options) -> PopMap:
    """Open a popmap of another package's kind; raises StartupError, also if it is not whole."""
    try:
        opener = found.load()
    except (ImportError, AttributeError) as error:
        raise StartupError(f"map_library {found.name}: {error}; mend its package") from error
    try:
        popmap: PopMap = opener(options)
    except StartupError:
        raise
    except Exception as error:
        raise StartupError(
            f"map_library {found.name}: {describe_error(error)}; "
            "check map_library_opt and its package"
        ) from error
    return popmap


def open_kind(name: str, kind: MapKind, options: Options) -> PopMap:
    """Open a popmap of one of our kinds; raises StartupError, also for what is not installed."""
    try:
        module = import_module(f"perdition.popmap.backends.{kind.module}")
    except ModuleNotFoundError as error:
        raise StartupError(
            f"map_library {name}: there is no module {error.name}; install {kind.needs}"
        ) from error
    popmap: PopMap = module.open_map(options)
    return popmap
