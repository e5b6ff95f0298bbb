"""The configuration file: how keys, values, quotes and comments are read."""

import pytest

from perdition.options.config_file import BLANKS, Entry, SyntaxProblem, parse


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("timeout 60", "timeout", "60"),
        ("t 60", "t", "60"),
        ("t\t \t60", "t", "60"),
        (" \tt 60 \t", "t", "60"),
        ("t=60", "t", "60"),
        ("imap_capability=IMAP4 AUTH=X", "imap_capability", "IMAP4 AUTH=X"),
        ("a", "a", None),
        ("a   ", "a", None),
        ("a # a flag", "a", None),
        ("l 110 # a port", "l", "110"),
        ("l 110#a port", "l", "110"),
        (r"O a\#b", "O", "a#b"),
        ("O two  words", "O", "two  words"),
        ("O 'two  words '", "O", "two  words "),
        ("O 'a#b\\'", "O", "a#b\\"),
        ('O "a#b"', "O", "a#b"),
        ('O "it\'s"', "O", "it's"),
        ("O 'say \"hi\"'", "O", 'say "hi"'),
        (r'O "say \"hi\" \\ there"', "O", r'say "hi" \ there'),
        (r"O a\nb", "O", "anb"),
        (r"O a\ ", "O", "a "),
        (r"O \ a", "O", " a"),
        ('O a"b c"d', "O", "ab cd"),
        ('M ""', "M", ""),
        ("M ''", "M", ""),
        ("M=", "M", None),
        (r"a\ b c", "a b", "c"),
        ("'a b' c", "a b", "c"),
        ("O höh", "O", "höh"),
    ],
)
def test_line_is_read_as_key_and_value(line: str, key: str, value: str | None) -> None:
    assert list(parse(line)) == [Entry(1, key, value)]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "   \n\t\n", "# all\n  # comments", "\\\n", "#a \\\nb"]
)
def test_blank_lines_and_comments_are_no_entries(text: str) -> None:
    assert list(parse(text)) == []


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("a 1\nb 2\n", [Entry(1, "a", "1"), Entry(2, "b", "2")]),
        ("a 1\r\nb 2\r\n", [Entry(1, "a", "1"), Entry(2, "b", "2")]),
        ("\n# c\na 1\n\nb 2", [Entry(3, "a", "1"), Entry(5, "b", "2")]),
        ("a 1\\\n2\nb 3", [Entry(1, "a", "12"), Entry(3, "b", "3")]),
        ("a \\\r\n  1\r\nb 3", [Entry(1, "a", "1"), Entry(3, "b", "3")]),
        ("O 'one\ntwo'\nb 3", [Entry(1, "O", "onetwo"), Entry(3, "b", "3")]),
        ("# no \\\nb 3\nc 4", [Entry(3, "c", "4")]),
        ("a 1 # no \\\nb 3\nc 4", [Entry(1, "a", "1"), Entry(3, "c", "4")]),
        ("# it's\nb 3", [Entry(2, "b", "3")]),
        ("a 1\\", [Entry(1, "a", "1")]),
    ],
)
def test_entry_has_the_number_of_its_first_line(text: str, entries: list[Entry]) -> None:
    assert list(parse(text)) == entries


@pytest.mark.parametrize("quote", ["'", '"'])
def test_open_quote_is_reported_with_the_line_it_begins_on(quote: str) -> None:
    with pytest.raises(SyntaxProblem) as problem:
        list(parse(f"a 1\n\nO {quote}never\nclosed\n"))
    assert problem.value.line == 3


def test_equals_sign_belongs_to_the_key_if_only_blanks_separate() -> None:
    assert list(parse("a=b 1", BLANKS)) == [Entry(1, "a=b", "1")]
