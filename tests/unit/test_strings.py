"""Quoted strings and literals: the arguments of IMAP4 and ManageSieve commands."""

import pytest

from perdition.protocol.dialogue import Dialogue, LineTooLong
from perdition.protocol.strings import (
    COMMAND_LIMIT,
    COMMAND_LITERALS,
    LITERAL_LIMIT,
    QUOTED,
    Grammar,
    Malformed,
    quote,
    unquote,
)
from tests.unit.scripted_dialogue import DialogueStarter

INVITING = Grammar(line_limit=100, quoted_limit=20, continuation=b"+ go on\r\n", atoms=True)
TERSE = Grammar(line_limit=100, quoted_limit=20, continuation=b"", atoms=False)


def arguments(grammar: Grammar, line: bytes) -> Dialogue[list[bytes]]:
    """Read the arguments of a command; ``line`` starts after its name."""
    return grammar.arguments((yield from grammar.read_literals(line)))


@pytest.mark.parametrize("text", [b"", b"x", b'"', b"\\", b'\\"', b'a "b" \\c\\', b"{3+}"])
def test_quoted_text_is_unquoted_unchanged(text: bytes) -> None:
    quoted = QUOTED.fullmatch(quote(text))
    assert quoted
    assert unquote(quoted[1]) == text


@pytest.mark.parametrize(
    ("grammar", "line", "more", "found"),
    [
        (INVITING, b"", b"", []),
        (INVITING, b" a", b"", [b"a"]),
        (INVITING, b' a "b c"', b"", [b"a", b"b c"]),
        (INVITING, b' a"b', b"", [b'a"b']),
        (INVITING, b' "DOM\\user\\\\"', b"", [b"DOM\\user\\"]),
        (INVITING, b" a  ", b"", [b"a"]),
        (INVITING, b" {1}", b"x  \r\n", [b"x"]),
        (INVITING, b" ", b"", []),
        (INVITING, b" {2} x", b"", [b"{2}", b"x"]),
        (INVITING, b" {2}", b"xy z\r\n", [b"xy", b"z"]),
        (INVITING, b" a {1+}", b"x {1}\r\ny\r\n", [b"a", b"x", b"y"]),
        (TERSE, b' "a" {2}', b"\r\n\r\n", [b"a", b"\r\n"]),
        (TERSE, b" {0+}", b"\r\n", [b""]),
    ],
)
def test_arguments_are_divided(
    start_dialogue: DialogueStarter,
    grammar: Grammar,
    line: bytes,
    more: bytes,
    found: list[bytes],
) -> None:
    assert start_dialogue(arguments(grammar, line), more).outcome == found


def test_only_synchronizing_literals_are_invited(start_dialogue: DialogueStarter) -> None:
    assert start_dialogue(arguments(INVITING, b" {1}")).sent == b"+ go on\r\n"
    assert start_dialogue(arguments(INVITING, b" {1+}")).sent == b""
    assert start_dialogue(arguments(TERSE, b" {1}")).sent == b""


@pytest.mark.parametrize(
    ("grammar", "line"),
    [
        (INVITING, b"  a"),
        (INVITING, b"a"),
        (INVITING, b' "a'),
        (INVITING, b' "a"b'),
        (INVITING, b" a\x01b"),
        (INVITING, b" a\0b"),
        (INVITING, b' "%b"' % (b"x" * 21)),
        (INVITING, b" {%d}" % (LITERAL_LIMIT + 1)),
        (TERSE, b" a"),
        (TERSE, b' "a" b'),
    ],
)
def test_malformed_arguments_are_rejected(
    start_dialogue: DialogueStarter, grammar: Grammar, line: bytes
) -> None:
    with pytest.raises(Malformed):
        start_dialogue(arguments(grammar, line))


@pytest.mark.parametrize(
    ("grammar", "line"),
    [
        (INVITING, b" {%d+}" % (LITERAL_LIMIT + 1)),
        (INVITING, b" a {%d+}" % 10**19),
        (TERSE, b" {%d}" % (LITERAL_LIMIT + 1)),
    ],
)
def test_uninvited_literal_too_long_ends_the_dialogue(
    start_dialogue: DialogueStarter, grammar: Grammar, line: bytes
) -> None:
    with pytest.raises(LineTooLong):
        start_dialogue(arguments(grammar, line))


@pytest.mark.parametrize("more", [b"x" * 200, b"x {1+}\r\ny" + b"z" * 200])
def test_line_after_a_literal_has_a_limit(start_dialogue: DialogueStarter, more: bytes) -> None:
    with pytest.raises(LineTooLong):
        start_dialogue(arguments(INVITING, b" {1+}"), more)


def test_size_of_a_command_is_limited(start_dialogue: DialogueStarter) -> None:
    literal = b" {%d+}\r\n%b" % (LITERAL_LIMIT, b"x" * LITERAL_LIMIT)
    pieces = arguments(INVITING, b" {1+}")
    with pytest.raises(LineTooLong):
        start_dialogue(pieces, b"x" + literal * (COMMAND_LIMIT // LITERAL_LIMIT))


def test_number_of_literals_in_a_command_is_limited(start_dialogue: DialogueStarter) -> None:
    with pytest.raises(LineTooLong):
        start_dialogue(arguments(INVITING, b" {1+}"), b"x {1+}\r\n" * (2 * COMMAND_LITERALS))


@pytest.mark.parametrize("more", [b"\0\r\n", b"x a\0b\r\n"])
def test_nul_is_rejected_in_every_part_of_a_command(
    start_dialogue: DialogueStarter, more: bytes
) -> None:
    with pytest.raises(Malformed):
        start_dialogue(arguments(TERSE, b" {1}"), more)
