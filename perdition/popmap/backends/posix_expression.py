"""Translates extended POSIX regular expressions, as regcomp(3) reads them, for the regex module.

regcomp and regexec themselves cannot be used: a match in them cannot be interrupted, and a user
name can make one take minutes. The regex module has a time limit, and releases the interpreter
lock. The syntax is that of the GNU C library with REG_EXTENDED, in a UTF-8 locale.
"""

import re
from typing import Any

import regex

MAX_REPEAT = 32_767
"""RE_DUP_MAX."""

ESCAPES = {
    "<": r"\b(?=\w)",
    ">": r"\b(?<=\w)",
    "b": r"\b",
    "B": r"\B",
    "`": r"\A",
    "'": r"\Z",
    "w": r"\w",
    "W": r"\W",
    "s": r"[[:space:]]",
    "S": r"[^[:space:]]",
}
"""Escapes that stand for a class of characters."""
ANCHORS = "<>bB`'"
"""Escapes that match no character; they cannot be repeated."""

CLASSES = {
    name: f"[:{name}:]"
    for name in (
        *("alnum", "alpha", "blank", "cntrl", "digit", "graph"),
        *("lower", "print", "punct", "space", "upper", "xdigit"),
    )
}
BRACES = re.compile(r"\{([0-9]*)(,?)([0-9]*)\}")
NAMED = re.compile(r"\[([.:=])(.*?)\1\]", re.DOTALL)
"""A character class, a collating element or an equivalence class in a bracket expression."""


class ExpressionError(ValueError):
    """An expression that regcomp refuses; the text says why."""


def compile_expression(text: str) -> Any:
    """Return a compiled expression; raises ExpressionError."""
    try:
        return regex.compile(translate(text), regex.POSIX | regex.DOTALL | regex.VERSION0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ExpressionError(str(error) or type(error).__name__) from error


def translate(text: str) -> str:
    """Return the pattern for the regex module; raises ExpressionError."""
    return Translator(text).translate()


class Translator:
    """Reads an expression from left to right.

    ``atom`` is where in the output the last thing that can be repeated begins (None: there is
    none), ``opened`` where each open group begins, with its number.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.output: list[str] = []
        self.atom: int | None = None
        self.opened: list[tuple[int, int]] = []
        self.groups = 0
        self.closed: set[int] = set()

    def translate(self) -> str:
        while self.at < len(self.text):
            self.read_token(self.text[self.at])
        if self.opened:
            raise ExpressionError("unmatched (")
        return "".join(self.output)

    def read_token(self, character: str) -> None:
        match character:
            case "\\":
                self.read_escape()
            case "[":
                self.add_atom(self.read_bracket())
            case "*" | "+" | "?":
                self.at += 1
                self.repeat(character)
            case "{":
                self.repeat(self.read_braces())
            case "(":
                self.open_group()
            case ")" if self.opened:
                self.close_group()
            case "|":
                self.at += 1
                self.add("|")
            case "^":
                self.at += 1
                self.add(r"\A")
            case "$":
                self.at += 1
                self.add(r"\Z")
            case ".":
                self.at += 1
                self.add_atom(".")
            case _:
                self.at += 1
                self.add_atom(literal(character))

    def add(self, pattern: str) -> None:
        """Add what cannot be repeated."""
        self.output.append(pattern)
        self.atom = None

    def add_atom(self, pattern: str) -> None:
        """Add what can be repeated."""
        self.atom = len(self.output)
        self.output.append(pattern)

    def repeat(self, quantifier: str) -> None:
        """Repeat the last atom, which may already be repeated, as in ``a**``."""
        if self.atom is None:
            raise ExpressionError(f"nothing before {quantifier} that can be repeated")
        self.output.insert(self.atom, "(?:")
        self.output.append(f"){quantifier}")

    def read_braces(self) -> str:
        """Read ``{m}``, ``{m,}``, ``{,n}`` or ``{m,n}``."""
        braces = BRACES.match(self.text, self.at)
        if not braces or not (braces[1] or braces[2]):
            raise ExpressionError("expected {m}, {m,} or {m,n}")
        self.at = braces.end()
        low, high = int(braces[1] or 0), int(braces[3] or braces[1] or 0)
        if max(low, high) > MAX_REPEAT:
            raise ExpressionError(f"more than {MAX_REPEAT} repetitions")
        if braces[3] and high < low:
            raise ExpressionError(f"{braces[0]}: the first number is larger than the second")
        return f"{{{low},{braces[3]}}}" if braces[2] else f"{{{low}}}"

    def open_group(self) -> None:
        self.at += 1
        self.groups += 1
        self.opened.append((len(self.output), self.groups))
        self.add("(")

    def close_group(self) -> None:
        self.at += 1
        begin, number = self.opened.pop()
        self.output.append(")")
        self.closed.add(number)
        self.atom = begin

    def read_escape(self) -> None:
        character = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if not character:
            raise ExpressionError("a backslash at the end")
        if character in "123456789":
            if int(character) not in self.closed:
                raise ExpressionError(f"\\{character}: there is no such group before it")
            self.add_atom(f"(?:\\{character})")  # a digit may follow
        elif character in ANCHORS:
            self.add(ESCAPES[character])
        else:
            self.add_atom(ESCAPES.get(character) or literal(character))

    def read_bracket(self) -> str:
        """Read a bracket expression; a backslash has no meaning in it."""
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        parts: list[str] = []
        while not parts or not self.text.startswith("]", self.at):
            parts.append(self.read_bracket_part(first=not parts))
        self.at += 1
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def read_bracket_part(self, first: bool) -> str:
        """Read a character, a range or a class."""
        begin = self.at
        start = self.read_element()
        if self.text[begin] == "-" and not first and not self.text.startswith("]", self.at):
            raise ExpressionError("a - in [] that is neither first, last nor part of a range")
        rest = self.text[self.at : self.at + 2]
        if not rest.startswith("-") or rest == "-]":
            return start if len(start) > 1 else literal(start)
        self.at += 1
        end = self.read_element()
        if len(start) > 1 or len(end) > 1 or start > end:
            raise ExpressionError(f"{start}-{end}: not a valid range")
        return f"{literal(start)}-{literal(end)}"

    def read_element(self) -> str:
        """Read a character or a class of a bracket expression."""
        if named := NAMED.match(self.text, self.at):
            self.at = named.end()
            if named[1] == ":":
                if named[2] not in CLASSES:
                    raise ExpressionError(f"[:{named[2]}:]: no such character class")
                return CLASSES[named[2]]
            if len(named[2]) != 1:
                raise ExpressionError(f"{named[0]}: expected a single character")
            return named[2]
        character = self.text[self.at : self.at + 1]
        if not character or self.text[self.at : self.at + 2] in ("[.", "[:", "[="):
            raise ExpressionError("unmatched [")
        self.at += 1
        return character


def literal(character: str) -> str:
    """Return a pattern that matches a character, also in a bracket expression."""
    return character if character.isalnum() else f"\\U{ord(character):08x}"
