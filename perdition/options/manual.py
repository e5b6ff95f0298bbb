"""Generates the manual's OPTIONS section and the sample configuration from the option table.

``python3 -m perdition.options.manual FILE...`` replaces the text between the two marks of each
file; the rest of the file is written by hand.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from perdition.options.table import OPTIONS, Option

BEGIN, END = "options: begin", "options: end"
"""The marks; in a file each is part of a comment."""
REREAD = "SIGHUP reads the file again; another file needs a restart."
MANUAL_WIDTH = 78
SAMPLE_WIDTH = 98

ROFF = str.maketrans(
    {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
)
"""Characters that roff would interpret, or print as another character."""


def default(option: Option) -> str:
    shown = "none" if option.default is None else option.type.show(option.default)
    return option.derived or shown


def remarks(option: Option) -> Iterator[str]:
    """Yield the sentences that follow an option's own text."""
    if option.restart:
        yield REREAD if option.reread else "A change needs a restart."
    if not option.in_file:
        yield "Command line only."


def roff(text: str) -> str:
    """Return a text in roff, to be shown literally; two blanks stay two."""
    return text.translate(ROFF).replace("  ", "\\ \\ ")


def folded(text: str) -> list[str]:
    """Wrap a paragraph of roff, and prevent its lines from being interpreted as requests."""
    lines = textwrap.wrap(text, MANUAL_WIDTH, break_on_hyphens=False, break_long_words=False)
    return ["\\&" + line if line.startswith(".") else line for line in lines]


def manual_options() -> Iterator[str]:
    for name, option in OPTIONS.items():
        names = [f"\\-{option.short}"] if option.short else []
        names.append("\\-\\-" + name)
        argument = f" \\fI{roff(option.type.argument)}\\fR" if option.type.argument else ""
        yield ".TP"
        yield ", ".join(f"\\fB{shown}\\fR" for shown in names) + argument
        yield from folded(" ".join([roff(option.description), *remarks(option)]))
        yield ".br"
        yield from folded(f"Default: {roff(default(option))}.")


def sample_options() -> Iterator[str]:
    """Yield the lines of the sample configuration: each option, commented out, with its default."""
    for name, option in OPTIONS.items():
        if not option.in_file:
            continue
        yield ""
        description = " ".join([option.description, *remarks(option)])
        yield from textwrap.wrap(
            description,
            SAMPLE_WIDTH,
            initial_indent="# ",
            subsequent_indent="# ",
            break_on_hyphens=False,
        )
        if option.derived:
            yield f"# Default: {option.derived}."
        yield f"#{entry(name, option)}"


def entry(name: str, option: Option) -> str:
    """Return an option's line: with its default, or with the name of its argument."""
    if option.derived or option.default is None:
        return f"{name} {option.type.argument}"
    shown = option.type.show(option.default)
    inner = shown.removeprefix('"').removesuffix('"')
    return f"{name} '{inner}'" if '"' in inner else f"{name} {shown}"


def renewed(text: str, lines: Iterator[str]) -> str:
    """Return a file's text with the lines between the marks replaced."""
    marks = re.compile(rf"(.*{BEGIN}.*\n)(?:.*\n)*?(.*{END}.*\n)")
    return marks.sub(lambda match: "\n".join([match[1] + "\n".join(lines), match[2]]), text)


def page(path: Path) -> str:
    """Return the up-to-date text of a file."""
    lines = manual_options() if path.suffix == ".8" else sample_options()
    return renewed(path.read_text(), lines)


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(page(file))
