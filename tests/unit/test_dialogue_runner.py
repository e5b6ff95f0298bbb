"""The runner of dialogues: what its acts do when time runs out."""

import socket
from contextlib import closing

import pytest

from perdition.dialogue_runner import DialogueRunner
from perdition.log import Log
from perdition.net.loop import Loop
from perdition.net.stream import DeadlineExceeded, Stream
from perdition.protocol.dialogue import AwaitInput
from tests.unit.loops import run
from tests.unit.recorded_log import RecordedLog


@pytest.mark.parametrize(("seconds", "deadline"), [(0.1, 0), (0.1, 60)])
def test_input_that_does_not_come_is_no_error(loop: Loop, seconds: float, deadline: float) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        stream = Stream(loop, ours, 0, deadline)
        runner = DialogueRunner(stream, "REAL", Log("test", RecordedLog()), logged=False)
        assert run(loop, runner.perform(AwaitInput(seconds))) == b""


def test_deadline_ends_the_wait_for_input(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        stream = Stream(loop, ours, timeout=0, deadline=0.2)
        runner = DialogueRunner(stream, "REAL", Log("test", RecordedLog()), logged=False)
        with pytest.raises(DeadlineExceeded):
            run(loop, runner.perform(AwaitInput(10)))
