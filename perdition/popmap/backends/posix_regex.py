"""A popmap of extended POSIX regular expressions; the first match is used."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perdition.failure import MapUnavailable
from perdition.files import SYSCONFDIR
from perdition.options import config_file
from perdition.options.table import Options
from perdition.popmap import Destination, Query, SlowLookup
from perdition.popmap.backends.posix_expression import ExpressionError, compile_expression
from perdition.popmap.file_map import SETTLE_SECONDS, FileMap, Signature

MATCH_SECONDS = 0.1
"""Time limit for all expressions together, for one key."""
INLINE_SECONDS = 0.005
"""Time after which the match moves to a thread."""

HAD_FINAL_LINE_END: set[str] = set()
"""Files of which a content ended with a line end. Without one, such a file is being written.

Workers, and the maps opened after SIGHUP, know it from the master's ``probe`` at start."""


def open_map(options: Options) -> "PosixRegexMap":
    """Open a map of regular expressions; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.re"
    return PosixRegexMap(path, options.domain_delimiter)


class Rule(NamedTuple):
    """An expression and its substitution: ``$0`` is the match, ``$1`` to ``$9`` are the groups.

    A rule with an error has no expression; ``mistake`` describes the error and names its line.
    """

    expression: Any
    substitution: str
    mistake: str = ""


class RegexFile(NamedTuple):
    """A file's rules, and whether its last line has a line end."""

    rules: list[Rule]
    has_final_line_end: bool


class PosixRegexMap(FileMap[RegexFile]):
    """A line is ``<regular expression>[:] <substitution>``, quoted as in the configuration file.

    An error in a line affects only the keys that no earlier line matches.
    """

    must_be_valid = True

    def load(self) -> RegexFile:
        data = Path(self.path).read_bytes()
        if not data and Signature.of(self.path).age() < SETTLE_SECONDS:
            raise ValueError("empty, and changed a moment ago")
        has_final_line_end = data.endswith(b"\n")
        if data and self.path in HAD_FINAL_LINE_END and not has_final_line_end:
            raise ValueError("incomplete: it does not end with a line end")
        return RegexFile(list(rules(data.decode(errors="surrogateescape"))), has_final_line_end)

    def replace(self, content: RegexFile, signature: Signature) -> None:
        super().replace(content, signature)
        if content.has_final_line_end:
            HAD_FINAL_LINE_END.add(self.path)

    def is_empty(self, content: RegexFile) -> bool:
        return not content.rules

    def mistake(self, content: RegexFile) -> str:
        return next((rule.mistake for rule in content.rules if rule.mistake), "")

    def lookup(self, query: Query) -> Destination | None:
        try:
            return self.match(self.current(), query.key, INLINE_SECONDS, concurrent=False)
        except TimeoutError as error:
            raise SlowLookup from error

    def lookup_in_thread(self, query: Query) -> Destination | None:
        content = self.content  # current() is for the worker's own thread
        if content is None:
            raise MapUnavailable(f"popmap {self.path}: reopened during the lookup")
        try:
            return self.match(content, query.key, MATCH_SECONDS, concurrent=True)
        except TimeoutError as error:
            raise MapUnavailable(
                f"popmap {self.path}: matching took more than {MATCH_SECONDS} s"
            ) from error

    def match(
        self, content: RegexFile, key: str, seconds: float, concurrent: bool
    ) -> Destination | None:
        """Return the destination from the first rule that matches.

        Raises TimeoutError, and MapUnavailable at a rule with an error. ``concurrent`` releases the
        interpreter lock.
        """
        deadline = time.monotonic() + seconds
        for rule in content.rules:
            if rule.mistake:
                raise MapUnavailable(f"popmap {self.path}: {rule.mistake}")
            left = max(0.0, deadline - time.monotonic())
            if match := rule.expression.search(key, timeout=left, concurrent=concurrent):
                value = key[: match.start()] + substitute(rule.substitution, match)
                return Destination.parse(value, self.delimiter)
        return None


def rules(text: str) -> Iterator[Rule]:
    """Yield the rules of a file. As in perdition 2.2, a line without a substitution is skipped."""
    try:
        for entry in config_file.parse(text, config_file.BLANKS):
            if entry.value is None:
                continue
            try:
                yield Rule(compile_expression(entry.key.removesuffix(":")), entry.value)
            except ExpressionError as error:
                yield Rule(None, "", f"line {entry.line}: {error}")
    except config_file.SyntaxProblem as problem:
        yield Rule(None, "", f"line {problem.line}: {problem}")


def substitute(substitution: str, match: Any) -> str:
    """Replace ``$0`` to ``$9``; a reference to a group that does not exist stays."""

    def group(reference: re.Match[str]) -> str:
        number = int(reference[1])
        if number > match.re.groups:
            return reference[0]
        return match[number] or ""

    return re.sub(r"\$([0-9])", group, substitution)
