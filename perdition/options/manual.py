"""The option table as pages: the manual's OPTIONS, and the sample configuration file.

``python3 -m perdition.options.manual FILE...`` replaces the text between the two marks of each
file; the rest is written by hand.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from perdition.options.table import OPTIONS, Option

BEGIN, END = "options: begin", "options: end"
"""The marks; what a line has in front of them makes it a comment of its file."""
REREAD = "SIGHUP reads the file again; another file needs a restart."
MANUAL_WIDTH = 78
SAMPLE_WIDTH = 98

ROFF = str.maketrans(
    {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
)
"""What roff would read as something else, or print as another character."""


def default(option: Option) -> str:
    """Return an option's default in words."""
    shown = "none" if option.default is None else option.type.show(option.default)
    return option.derived or shown


def remarks(option: Option) -> Iterator[str]:
    """Yield what there is to know of an option besides what it says itself."""
    if option.restart:
        yield REREAD if option.reread else "A change needs a restart."
    if not option.in_file:
        yield "Not in the configuration file."


def roff(text: str) -> str:
    """Return a text as roff shows it, to the letter; two blanks stay two."""
    return text.translate(ROFF).replace("  ", "\\ \\ ")


def folded(text: str) -> list[str]:
    """Return a paragraph of roff; no line of it may look like a request."""
    lines = textwrap.wrap(text, MANUAL_WIDTH, break_on_hyphens=False, break_long_words=False)
    return ["\\&" + line if line.startswith(".") else line for line in lines]


def manual_options() -> Iterator[str]:
    """Yield the lines of the manual's OPTIONS."""
    for name, option in OPTIONS.items():
        names = [f"\\-{option.short}"] if option.short else []
        names.append("\\-\\-" + name)
        argument = f" \\fI{roff(option.type.argument)}\\fR" if option.type.argument else ""
        yield ".TP"
        yield ", ".join(f"\\fB{shown}\\fR" for shown in names) + argument
        yield from folded(" ".join([roff(option.says), *remarks(option)]))
        yield ".br"
        yield from folded(f"Default: {roff(default(option))}.")


def sample_options() -> Iterator[str]:
    """Yield the lines of the sample configuration file: each option with its default."""
    for name, option in OPTIONS.items():
        if not option.in_file:
            continue
        yield ""
        says = " ".join([option.says, *remarks(option)])
        yield from textwrap.wrap(
            says, SAMPLE_WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
        if option.derived:
            yield f"# Default: {option.derived}."
        yield f"#{entry(name, option)}"


def entry(name: str, option: Option) -> str:
    """Return a line that says what counts without it, or what to give if no value says that."""
    if option.derived or option.default is None:
        return f"{name} {option.type.argument}"
    shown = option.type.show(option.default)
    inner = shown.removeprefix('"').removesuffix('"')
    return f"{name} '{inner}'" if '"' in inner else f"{name} {shown}"


def renewed(text: str, lines: Iterator[str]) -> str:
    """Return a file's text with other lines between the marks."""
    marks = re.compile(rf"(.*{BEGIN}.*\n)(?:.*\n)*?(.*{END}.*\n)")
    return marks.sub(lambda found: "\n".join([found[1] + "\n".join(lines), found[2]]), text)


def page(path: Path) -> str:
    """Return what a file should be."""
    lines = manual_options() if path.suffix == ".8" else sample_options()
    return renewed(path.read_text(), lines)


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(page(file))
