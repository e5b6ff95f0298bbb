"""A popmap of extended POSIX regular expressions; the first match is used."""

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from perdition.failure import MapUnavailable
from perdition.files import SYSCONFDIR
from perdition.options import config_file
from perdition.options.table import Options
from perdition.popmap import Destination, Query, SlowLookup
from perdition.popmap.backends.posix_expression import ExpressionError, compile_expression
from perdition.popmap.files import FileMap

MATCH_SECONDS = 0.1
"""Time limit for all expressions together, for one key."""
INLINE_SECONDS = 0.005
"""Time after which the match moves to a thread."""


def open_map(options: Options) -> "PosixRegexMap":
    """Open a map of regular expressions; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.re"
    return PosixRegexMap(path, options.domain_delimiter)


class Rule(NamedTuple):
    """An expression and its substitution, ``$0`` is the match, ``$1`` to ``$9`` are groups."""

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
            raise ValueError(f"line {entry.line}: no substitution after the expression")
        try:
            return Rule(compile_expression(entry.key.removesuffix(":")), entry.value)
        except ExpressionError as error:
            raise ValueError(f"line {entry.line}: {error}") from error

    def lookup(self, query: Query) -> Destination | None:
        self.refresh()
        try:
            return self.match(query.key, INLINE_SECONDS, concurrent=False)
        except TimeoutError as error:
            raise SlowLookup from error

    def lookup_in_thread(self, query: Query) -> Destination | None:
        try:
            return self.match(query.key, MATCH_SECONDS, concurrent=True)
        except TimeoutError as error:
            raise MapUnavailable(
                f"popmap {self.path}: matching took more than {MATCH_SECONDS} s"
            ) from error

    def match(self, key: str, seconds: float, concurrent: bool) -> Destination | None:
        """Return the destination from the first rule that matches; raises TimeoutError.

        ``concurrent`` releases the interpreter lock.
        """
        deadline = time.monotonic() + seconds
        for rule in self.rules:
            left = max(0.0, deadline - time.monotonic())
            if found := rule.expression.search(key, timeout=left, concurrent=concurrent):
                value = key[: found.start()] + substitute(rule.substitution, found)
                return Destination.parse(value, self.delimiter)
        return None


def substitute(substitution: str, found: Any) -> str:
    """Replace ``$0`` to ``$9``; a reference to a group that does not exist stays."""

    def group(reference: re.Match[str]) -> str:
        number = int(reference[1])
        if number > found.re.groups:
            return reference[0]
        return found[number] or ""

    return re.sub(r"\$([0-9])", group, substitution)
