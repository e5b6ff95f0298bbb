"""A popmap of extended POSIX regular expressions, the first that matches wins."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import regex

from perdition.failure import MapUnavailable
from perdition.files import SYSCONFDIR
from perdition.options import config_file
from perdition.options.table import Options
from perdition.popmap import Destination, Query, SlowLookup
from perdition.popmap.files import FileMap

MATCH_SECONDS = 0.1
"""How long all expressions together may take for one key: some would take for ever."""
INLINE_SECONDS = 0.005
"""How much of that the worker does nothing else for."""


def open_map(options: Options) -> "PosixRegexMap":
    """Open a map of regular expressions; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.re"
    return PosixRegexMap(path, options.domain_delimiter)


class Rule(NamedTuple):
    """An expression and what it is replaced with; ``$1`` to ``$9`` are its groups."""

    expression: Any
    substitution: str


class PosixRegexMap(FileMap):
    """A line is ``<regular expression>[:] <substitution>``, quoted as in the configuration file."""

    def __init__(self, path: str, delimiter: str) -> None:
        super().__init__(path, delimiter)
        self.rules: list[Rule] = []

    def load(self) -> None:
        text = Path(self.path).read_bytes().decode(errors="surrogateescape")
        try:
            entries = list(config_file.parse(text, config_file.BLANKS))
        except config_file.SyntaxProblem as problem:
            raise ValueError(f"line {problem.line}: {problem}") from problem
        self.rules = [self.compile(entry) for entry in entries]

    def compile(self, entry: config_file.Entry) -> Rule:
        """Return a line's rule; raises ValueError that names the line."""
        if entry.value is None:
            raise ValueError(f"line {entry.line}: no substitution behind the expression")
        try:
            return Rule(regex.compile(entry.key.removesuffix(":"), regex.POSIX), entry.value)
        except regex.error as error:
            raise ValueError(f"line {entry.line}: {error}") from error

    def lookup(self, query: Query) -> Destination | None:
        self.refresh()
        try:
            return self.match(query.key, INLINE_SECONDS, concurrent=False)
        except TimeoutError as error:
            raise SlowLookup from error

    def at_length(self, query: Query) -> Destination | None:
        try:
            return self.match(query.key, MATCH_SECONDS, concurrent=True)
        except TimeoutError as error:
            raise MapUnavailable(
                f"popmap {self.path}: matching took more than {MATCH_SECONDS} s"
            ) from error

    def match(self, key: str, seconds: float, concurrent: bool) -> Destination | None:
        """Return what the first rule that matches makes of a key; raises TimeoutError.

        ``concurrent`` lets other threads run meanwhile.
        """
        if "\n" in key:
            return None  # POSIX's $ does not match before it, as this library's would
        deadline = time.monotonic() + seconds
        for rule in self.rules:
            left = max(0.0, deadline - time.monotonic())
            if found := rule.expression.search(key, timeout=left, concurrent=concurrent):
                value = key[: found.start()] + substitute(rule.substitution, found)
                return Destination.parse(value, self.delimiter)
        return None


def substitute(substitution: str, found: Any) -> str:
    """Put a match's groups in place of ``$1`` to ``$9``; one that there is not stays as it is."""

    def group(reference: Any) -> str:
        number = int(reference[1])
        if number > found.re.groups:
            return str(reference[0])
        return found[number] or ""

    return str(regex.sub(r"\$([1-9])", group, substitution))
