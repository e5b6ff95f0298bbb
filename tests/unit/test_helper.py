"""The helper, without a running instance."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from perdition.helper.channel import (
    FIRST_ID,
    HEAD,
    MESSAGE_SIZE,
    SIZE,
    HelperChannel,
    Request,
    Status,
    pack_fields,
)
from perdition.helper.process import PAM_SYSTEM_ERROR, Helper
from perdition.helper.supervisor import fork_supervisor


def test_helper_answers_after_malformed_requests(tmp_path: Path) -> None:
    """A request of the next worker is answered, whatever the previous one sent."""
    file = tmp_path / "certificate"
    file.write_bytes(b"octets")
    line = HelperChannel([str(file)])
    helper = Helper("test", [line], -1, 1.0)
    for malformed in (b"", b"?"):
        line.client_end.send(malformed)
        helper.respond(line)

    line.client_end.send(HEAD.pack(FIRST_ID, Request.FILE) + SIZE.pack(0))
    helper.respond(line)

    assert line.client_end.recv(MESSAGE_SIZE) == HEAD.pack(FIRST_ID, Status.READY) + b"octets"
    line.client_end.close()
    line.helper_end.close()


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
    line = HelperChannel([])
    helper = Helper("test", [line], -1, 1.0)

    line.client_end.send(
        HEAD.pack(FIRST_ID, Request.LOGIN) + pack_fields(b"joe", b"secret", b"192.0.2.1")
    )
    helper.respond(line)

    failed = HEAD.pack(FIRST_ID, Status.FAILED) + SIZE.pack(PAM_SYSTEM_ERROR)
    assert line.client_end.recv(MESSAGE_SIZE) == failed
    line.client_end.close()
    line.helper_end.close()


def test_supervisor_starts_the_helper_again_if_fork_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "certificate"
    file.write_bytes(b"octets")
    monkeypatch.setattr(os, "fork", fork_that_fails(2))
    line = HelperChannel([str(file)])
    lifeline = os.pipe()

    supervisor = fork_supervisor("test", [line], lifeline, [], 1.0)

    try:
        assert line.read_file(str(file)) == b"octets"
    finally:
        for descriptor in lifeline:
            os.close(descriptor)
        os.waitpid(supervisor, 0)
        line.client_end.close()
