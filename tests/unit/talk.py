"""Dialogues without connections: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from perdition.protocol.dialogue import (
    Act,
    Dialogue,
    LineTooLong,
    Pause,
    ReadExactly,
    ReadLine,
    StartTLS,
    Write,
)

T = TypeVar("T")


class Talk(Generic[T]):
    """A dialogue that hears what a test tells it, and what it has done so far.

    ``noted`` is what the log would have, ``unread`` what was heard and not used.
    """

    def __init__(self, dialogue: Dialogue[T]) -> None:
        self.dialogue = dialogue
        self.said = b""
        self.unread = b""
        self.noted: list[bytes] = []
        self.pauses = 0
        self._outcomes: list[T] = []
        self._passed_on = 0
        self._changes_to_tls: list[int] = []
        self._act: Act | None = None
        self._resume(partial(next, dialogue))

    def hear(self, octets: bytes) -> Talk[T]:
        """Go on with these octets until more are needed, or the dialogue has ended."""
        self.unread += octets
        while self._act:
            try:
                brought = self._perform(self._act)
            except LineTooLong as mistake:
                self._resume(partial(self.dialogue.throw, mistake))
            else:
                if brought is None:
                    break
                self._resume(partial(self.dialogue.send, brought))
        return self

    @property
    def outcome(self) -> T:
        """What the dialogue came to."""
        assert self._outcomes, f"the dialogue goes on; so far it said {self.said!r}"
        return self._outcomes[0]

    @property
    def goes_on(self) -> bool:
        """Whether the dialogue waits for more."""
        return self._act is not None

    @property
    def lines(self) -> list[bytes]:
        """What was said, without the line ends that each line must have."""
        *lines, rest = self.said.split(b"\r\n")
        assert not rest, f"{rest!r} has no line end in {self.said!r}"
        return lines

    @property
    def answers(self) -> list[bytes]:
        """The first word of each line that was said."""
        return [line.partition(b" ")[0] for line in self.lines]

    @property
    def upgrades(self) -> int:
        """How often TLS was negotiated."""
        return len(self._changes_to_tls)

    def news(self) -> bytes:
        """What was said since this was last asked for, as far as one side of a change to TLS."""
        start = self._passed_on
        later = (change for change in self._changes_to_tls if change > start)
        self._passed_on = next(later, len(self.said))
        return self.said[start : self._passed_on]

    def _resume(self, resume: Callable[[], Act]) -> None:
        """Let the dialogue go on until it wants something done, or ends."""
        try:
            self._act = resume()
        except StopIteration as end:
            self._act = None
            self._outcomes.append(end.value)

    def _perform(self, act: Act) -> bytes | None:
        """Do one thing and return what it brings; None where that has not been heard yet."""
        match act:
            case ReadLine(limit, shown):
                if (line := self._cut_line(limit)) is not None:
                    self.noted.append(shown(line))
                return line
            case ReadExactly(count):
                if len(self.unread) < count:
                    return None
                octets, self.unread = self.unread[:count], self.unread[count:]
                return octets
            case Write(octets, shown_octets):
                self.said += octets
                self.noted.append(octets if shown_octets is None else shown_octets)
            case Pause():
                self.pauses += 1
            case StartTLS():
                self._changes_to_tls.append(len(self.said))
                self.unread = b""
        return b""

    def _cut_line(self, limit: int) -> bytes | None:
        line, newline, rest = self.unread.partition(b"\n")
        if len(line) > limit:
            raise LineTooLong
        if not newline:
            return None
        self.unread = rest
        return line.removesuffix(b"\r")


def drive(dialogue: Dialogue[T], heard: bytes) -> Talk[T]:
    """Hold a dialogue as far as what it hears goes."""
    return Talk(dialogue).hear(heard)


def join(one: Talk[Any], other: Talk[Any]) -> None:
    """Tell each of two dialogues what the other one says, until both are silent."""
    while (words := one.news()) or (reply := other.news()):
        if words:
            other.hear(words)
        else:
            one.hear(reply)
