"""A log whose lines a test can read."""

from perdition.log import Priority


class RecordedLog:
    """A sink that keeps the log's lines."""

    descriptor = -1

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, priority: Priority, line: str) -> None:
        self.lines.append(line)

    def reopen(self) -> None:
        pass
