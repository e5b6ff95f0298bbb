"""Quoted strings and literals: the arguments of IMAP4 and ManageSieve commands."""

import pytest

from perdition.protocol.dialogue import Dialogue, LineTooLong
from perdition.protocol.strings import (
    COMMAND_LITERALS,
    LITERAL_LIMIT,
    QUOTED,
    Grammar,
    Malformed,
    quote,
    unquote,
)
from tests.unit.scripted_dialogue import DialogueStarter

INVITING = Grammar(line_limit=100, quoted_limit=20, go_on=b"+ go on\r\n", atoms=True)
TERSE = Grammar(line_limit=100, quoted_limit=20, go_on=b"", atoms=False)


def arguments(grammar: Grammar, line: bytes) -> Dialogue[list[bytes]]:
    """Read the arguments of a command, from behind its name to its end."""
    return grammar.arguments((yield from grammar.read_literals(line)))


@pytest.mark.parametrize("text", [b"", b"x", b'"', b"\\", b'\\"', b'a "b" \\c\\', b"{3+}"])
def test_quoting_there_and_back(text: bytes) -> None:
    quoted = QUOTED.fullmatch(quote(text))
    assert quoted
    assert unquote(quoted[1]) == text


@pytest.mark.parametrize(
    ("grammar", "line", "behind", "found"),
    [
        (INVITING, b"", b"", []),
        (INVITING, b" a", b"", [b"a"]),
        (INVITING, b' a "b c"', b"", [b"a", b"b c"]),
        (INVITING, b' a"b', b"", [b'a"b']),
        (INVITING, b" {2} x", b"", [b"{2}", b"x"]),
        (INVITING, b" {2}", b"xy z\r\n", [b"xy", b"z"]),
        (INVITING, b" a {1+}", b"x {1}\r\ny\r\n", [b"a", b"x", b"y"]),
        (TERSE, b' "a" {2}', b"\r\n\r\n", [b"a", b"\r\n"]),
        (TERSE, b" {0+}", b"\r\n", [b""]),
    ],
)
def test_arguments(
    start_dialogue: DialogueStarter,
    grammar: Grammar,
    line: bytes,
    behind: bytes,
    found: list[bytes],
) -> None:
    assert start_dialogue(arguments(grammar, line), behind).outcome == found


def test_literals_are_invited_only_where_they_wait_for_it(start_dialogue: DialogueStarter) -> None:
    assert start_dialogue(arguments(INVITING, b" {1}")).said == b"+ go on\r\n"
    assert start_dialogue(arguments(INVITING, b" {1+}")).said == b""
    assert start_dialogue(arguments(TERSE, b" {1}")).said == b""


@pytest.mark.parametrize(
    ("grammar", "line"),
    [
        (INVITING, b" "),
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
def test_malformed_arguments(
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


@pytest.mark.parametrize("behind", [b"x" * 200, b"x {1+}\r\ny" + b"z" * 200])
def test_line_behind_a_literal_has_a_limit(start_dialogue: DialogueStarter, behind: bytes) -> None:
    with pytest.raises(LineTooLong):
        start_dialogue(arguments(INVITING, b" {1+}"), behind)


def test_command_has_not_endless_literals(start_dialogue: DialogueStarter) -> None:
    with pytest.raises(LineTooLong):
        start_dialogue(arguments(INVITING, b" {1+}"), b"x {1+}\r\n" * (2 * COMMAND_LITERALS))


@pytest.mark.parametrize("behind", [b"\0\r\n", b"x a\0b\r\n"])
def test_no_part_of_a_command_holds_a_nul(start_dialogue: DialogueStarter, behind: bytes) -> None:
    with pytest.raises(Malformed):
        start_dialogue(arguments(TERSE, b" {1}"), behind)
