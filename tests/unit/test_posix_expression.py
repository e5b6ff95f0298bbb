"""Extended POSIX expressions: which are valid and what they match, compared with the C library."""

import ctypes
import random

import pytest

from perdition.popmap.backends.posix_expression import CLASSES, ExpressionError, compile_expression

GROUPS = 10
REG_EXTENDED = 1
SIZE_OF_REGEX_T = 256
"""Bytes; more than any machine needs."""

C_LIBRARY = ctypes.CDLL(None)
INVALID = "invalid"


class Match(ctypes.Structure):
    """regmatch_t of the GNU C library."""

    _fields_ = (("begin", ctypes.c_int), ("end", ctypes.c_int))


def by_the_c_library(expression: str, text: str) -> tuple[int, int] | str | None:
    """Where an expression matches first (None: nowhere), or that it is invalid."""
    compiled = ctypes.create_string_buffer(SIZE_OF_REGEX_T)
    if C_LIBRARY.regcomp(compiled, expression.encode(), REG_EXTENDED):
        return INVALID
    found = (Match * GROUPS)()
    status = C_LIBRARY.regexec(compiled, text.encode(), GROUPS, found, 0)
    C_LIBRARY.regfree(compiled)
    return None if status else (found[0].begin, found[0].end)


def by_perdition(expression: str, text: str) -> tuple[int, int] | str | None:
    try:
        compiled = compile_expression(expression)
    except ExpressionError:
        return INVALID
    found = compiled.search(text, timeout=5)
    return (found.start(), found.end()) if found else None


needs_glibc = pytest.mark.skipif(
    not hasattr(C_LIBRARY, "gnu_get_libc_version"), reason="not installed: the GNU C library"
)

PIECES = (
    *"abc-.*+?()|^${},12@_ ",
    *("[", "]", "\\", "\\<", "\\>", "\\w", "\\W", "\\s", "\\S", "\\b", "\\B", "\\`", "\\'"),
    *("\\d", "\\.", "\\n", "[a-c]", "[^a]", "[]a]", "[a-]", "[a\\-z]", "[[.-.]a]", "[[=a=]]"),
    *("[[:alpha:]]", "[[:punct:]]", "[^[:digit:]_]", "[[:space:]]"),
    *("(a|ab)", "(b*)", "(a)\\1", "{1,2}", "{,2}", "{2}", "{2,}"),
)
CHARACTERS = "aabbcc-._@ 1]\\d^$[n"


@needs_glibc
@pytest.mark.parametrize("seed", range(10))
def test_random_expressions_match_as_in_the_c_library(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(400):
        expression = "".join(choose.choices(PIECES, k=choose.randint(1, 7)))
        text = "".join(choose.choices(CHARACTERS, k=choose.randint(0, 8)))
        expected = by_the_c_library(expression, text)
        assert by_perdition(expression, text) == expected, (expression, text)


@needs_glibc
@pytest.mark.parametrize("name", CLASSES)
def test_classes_have_the_members_that_they_have_in_the_c_library(name: str) -> None:
    expression = f"[[:{name}:]]"
    for character in map(chr, range(1, 128)):
        expected = by_the_c_library(expression, character)
        assert by_perdition(expression, character) == expected, character


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("*a", "nothing before"),
        ("a|*b", "nothing before"),
        ("(*a)", "nothing before"),
        ("^*", "nothing before"),
        (r"\<*", "nothing before"),
        ("(?:a)", "nothing before"),
        ("a{", "expected {m}"),
        ("a{x}", "expected {m}"),
        ("a{2,1}", "larger"),
        ("a{32768}", "32767"),
        ("(a", r"unmatched \("),
        ("[a", r"unmatched \["),
        ("[[:alpha:", r"unmatched \["),
        ("[[:letter:]]", "no such character class"),
        ("[[.space.]]", "single character"),
        ("[z-a]", "not a valid range"),
        ("[a-c-e]", "neither first, last nor part of a range"),
        ("[[:alpha:]-z]", "not a valid range"),
        (r"\1(a)", "no such group"),
        (r"(a\1)", "no such group"),
        ("a\\", "backslash"),
    ],
)
def test_invalid_expression_is_refused_with_the_reason(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        compile_expression(expression)
    if hasattr(C_LIBRARY, "gnu_get_libc_version"):
        assert by_the_c_library(expression, "") == INVALID


@pytest.mark.parametrize(
    ("expression", "text", "groups"),
    [
        ("^(.*)@(.*)$", "joe@x@y", ("joe@x", "y")),
        ("^(a|ab)(c|bcd)$", "abcd", ("a", "bcd")),
        ("^(a)|(b)$", "b", (None, "b")),
        ("^(.)ö(.)$", "xöy", ("x", "y")),
        ("^(.*)$", "a\nb", ("a\nb",)),
    ],
)
def test_groups(expression: str, text: str, groups: tuple[str | None, ...]) -> None:
    assert compile_expression(expression).search(text).groups() == groups
