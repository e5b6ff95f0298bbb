"""The syntax of perdition.conf(5): keys, values, quotes, comments and continued lines."""

from collections.abc import Iterator
from typing import NamedTuple

BLANKS = " \t"


class Entry(NamedTuple):
    """A key, its value (None if there is none), and the number of its first line."""

    line: int
    key: str
    value: str | None


class SyntaxProblem(Exception):
    """An unclosed quote; ``line`` is the number of the first line of its entry."""

    def __init__(self, line: int) -> None:
        super().__init__("unclosed quote")
        self.line = line


class Character(NamedTuple):
    """A character, and whether it is literal: quoted, or after a backslash."""

    text: str
    literal: bool


def parse(text: str, separators: str = BLANKS + "=") -> Iterator[Entry]:
    """Parse ``<key> <value>`` lines; raises SyntaxProblem.

    ``separators`` are the characters that may separate a key from its value.
    """
    for number, characters in logical_lines(text):
        key, value = divide(characters, separators)
        if key:
            yield Entry(number, key, value)


def logical_lines(text: str) -> Iterator[tuple[int, list[Character]]]:
    """Yield each logical line without comments and quotes, with the number of its first line.

    A backslash before the end of a line, or an open quote, continues it on the next one. A comment
    is continued too, because the sample configuration of perdition 2.2 relies on that.
    """
    number = first = 1
    line: list[Character] = []
    quote = ""
    source = iter(text.replace("\r\n", "\n").removesuffix("\n") + "\n")
    for character in source:
        ends = character == "\n"
        number += ends
        if ends and not quote:
            yield first, line
            first, line = number, []
        elif ends:
            pass
        elif quote == "'":
            quote = literal(line, character, quote)
        elif character == "\\":
            follower = next(source, "\n")
            number += follower == "\n"
            if follower != "\n":
                line.append(Character(follower, True))
        elif quote:
            quote = literal(line, character, quote)
        elif character in "'\"":
            quote = character
            line.append(Character("", True))
        elif character == "#":
            number += skip_comment(source)
            yield first, line
            first, line = number, []
        else:
            line.append(Character(character, False))
    if quote:
        raise SyntaxProblem(first)
    if line:
        yield first, line


def skip_comment(source: Iterator[str]) -> int:
    """Skip a comment with the end of its line; return the number of line ends skipped."""
    ends = 0
    for character in source:
        if character == "\n":
            return ends + 1
        if character == "\\":
            ends += next(source, "") == "\n"
    return ends


def literal(line: list[Character], character: str, quote: str) -> str:
    """Add a quoted character, unless it is the closing quote; return the quote still open."""
    if character == quote:
        return ""
    line.append(Character(character, True))
    return quote


def divide(line: list[Character], separators: str) -> tuple[str, str | None]:
    """Return a line's key and value, without the blanks around them that are not literal."""

    def text(characters: list[Character]) -> str:
        return "".join(character.text for character in characters)

    def skip(start: int, among: str) -> int:
        while start < len(line) and not line[start].literal and line[start].text in among:
            start += 1
        return start

    while line and not line[-1].literal and line[-1].text in BLANKS:
        line.pop()
    start = end = skip(0, BLANKS)
    while end < len(line) and skip(end, separators) == end:
        end += 1
    value = skip(min(end + 1, len(line)), BLANKS)
    return text(line[start:end]), text(line[value:]) if line[value:] else None
