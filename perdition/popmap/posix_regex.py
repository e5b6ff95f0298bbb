"""A popmap of extended POSIX regular expressions, the first that matches wins."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import regex

from perdition import config_file
from perdition.failure import MapUnavailable
from perdition.popmap import SYSCONFDIR, Destination, FileMap

MATCH_SECONDS = 0.5
"""How long all expressions together may take for one key: some of them never end."""


def open_map(option: str, delimiter: str) -> "PosixRegexMap":
    """Open a map of regular expressions; ``option`` is its file."""
    return PosixRegexMap(option or str(SYSCONFDIR / "popmap.re"), delimiter)


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

    def lookup(self, key: str) -> Destination | None:
        self.refresh()
        if "\n" in key:
            return None  # POSIX's $ does not match before it, as this library's would
        end = time.monotonic() + MATCH_SECONDS
        for rule in self.rules:
            try:
                found = rule.expression.search(key, timeout=max(0.0, end - time.monotonic()))
            except TimeoutError as error:
                raise MapUnavailable(
                    f"popmap {self.path}: matching took more than {MATCH_SECONDS} s"
                ) from error
            if found:
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
