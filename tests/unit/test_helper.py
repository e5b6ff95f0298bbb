"""The helper, without a running instance."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from perdition.helper_line import FIRST_ID, HEAD, MESSAGE_SIZE, SIZE, Line, Status, Wanted, pack
from perdition.process.helper import PAM_SYSTEM_ERROR, Helper
from perdition.process.keeper import start


def test_helper_answers_after_malformed_requests(tmp_path: Path) -> None:
    """A request of the next worker is answered, whatever the previous one sent."""
    file = tmp_path / "certificate"
    file.write_bytes(b"octets")
    line = Line([str(file)])
    helper = Helper("test", [line], -1, 1.0)
    for malformed in (b"", b"?"):
        line.ours.send(malformed)
        helper.respond(line)

    line.ours.send(HEAD.pack(FIRST_ID, Wanted.FILE) + SIZE.pack(0))
    helper.respond(line)

    assert line.ours.recv(MESSAGE_SIZE) == HEAD.pack(FIRST_ID, Status.READY) + b"octets"
    line.ours.close()
    line.helpers.close()


def fork_that_fails(number: int) -> Callable[[], int]:
    """An os.fork whose call with that number fails with EAGAIN; calls in children count, too."""
    fork, counted = os.fork, iter(range(1, number + 1))

    def fork_unless() -> int:
        if next(counted, 0) == number:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    return fork_unless


def test_login_fails_if_no_process_can_be_forked_for_pam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that request fails; the helper goes on."""
    monkeypatch.setattr(os, "fork", fork_that_fails(1))
    line = Line([])
    helper = Helper("test", [line], -1, 1.0)

    line.ours.send(HEAD.pack(FIRST_ID, Wanted.LOGIN) + pack(b"joe", b"secret", b"192.0.2.1"))
    helper.respond(line)

    failed = HEAD.pack(FIRST_ID, Status.FAILED) + SIZE.pack(PAM_SYSTEM_ERROR)
    assert line.ours.recv(MESSAGE_SIZE) == failed
    line.ours.close()
    line.helpers.close()


def test_supervisor_starts_the_helper_again_if_fork_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "certificate"
    file.write_bytes(b"octets")
    monkeypatch.setattr(os, "fork", fork_that_fails(2))
    line = Line([str(file)])
    lifeline = os.pipe()

    supervisor = start("test", [line], lifeline, [], 1.0)

    try:
        assert line.ask_for_file(str(file)) == b"octets"
    finally:
        for descriptor in lifeline:
            os.close(descriptor)
        os.waitpid(supervisor, 0)
        line.ours.close()
