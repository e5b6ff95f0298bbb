"""The helper, without a running instance."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from perdition.failure import StartupError
from perdition.helper.channel import (
    HEAD,
    MESSAGE_SIZE,
    SIZE,
    HelperChannel,
    Request,
    Status,
    pack_fields,
    receive_message,
)
from perdition.helper.client import HelperClient
from perdition.helper.helper import (
    PAM_SYSTEM_ERROR,
    AuthenticationRequest,
    Helper,
    send_reply,
)
from perdition.helper.supervisor import fork_supervisor
from perdition.net.loop import Loop
from tests.unit.loops import run


def test_helper_sends_large_files_also_after_malformed_requests(tmp_path: Path) -> None:
    """A request of the next worker is answered, whatever the previous one sent."""
    content = b"more than fits into a message\n" * 32768
    file = tmp_path / "certificate"
    file.write_bytes(content)
    line = HelperChannel([str(file)])
    helper = Helper("test", [line], -1, 1.0)
    for malformed in (b"", b"?"):
        line.client_end.send(malformed)
        helper.respond(line)

    line.client_end.send(HEAD.pack(1, Request.FILE) + SIZE.pack(0))
    helper.respond(line)

    assert receive_message(line.client_end) == HEAD.pack(1, Status.READY) + content
    line.client_end.close()
    line.helper_end.close()


def test_late_reply_is_not_taken_for_the_content_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time-out the next reload gets the file that it asks for."""
    monkeypatch.setattr("perdition.helper.channel.FILE_SECONDS", 0.05)
    files = [tmp_path / "first", tmp_path / "second"]
    for file in files:
        file.write_bytes(b"content of " + file.name.encode())
    channel = HelperChannel([str(file) for file in files])
    helper = Helper("test", [channel], -1, 1.0)
    with pytest.raises(StartupError, match="the helper does not reply"):
        channel.read_file(str(files[0]))
    helper.respond(channel)

    monkeypatch.setattr("perdition.helper.channel.FILE_SECONDS", 5.0)
    answering = threading.Thread(target=helper.respond, args=[channel])
    answering.start()
    assert channel.read_file(str(files[1])) == b"content of second"

    answering.join()
    channel.client_end.close()
    channel.helper_end.close()


def test_request_of_a_dead_worker_does_not_log_in_a_user_of_the_next_one(loop: Loop) -> None:
    """The next worker uses the same channel: replies to its predecessor's requests are dropped."""
    channel = HelperChannel([])
    helper = Helper("test", [channel], -1, 1.0)
    dead = HelperClient(loop, channel)
    helper.respond(channel)
    new = HelperClient(loop, channel)
    assert dead.next_id != new.next_id

    request = AuthenticationRequest(channel, dead.next_id + 1, 1e9, b"")
    helper.queue.append(request)
    helper.respond(channel)
    assert not helper.queue

    async def log_in() -> int:
        send_reply(channel, request.identifier, Status.READY, SIZE.pack(0))
        send_reply(channel, new.next_id + 1, Status.FAILED, SIZE.pack(PAM_SYSTEM_ERROR))
        return await new.login(b"joe", b"secret", b"192.0.2.1", 20.0)

    assert run(loop, log_in()) == PAM_SYSTEM_ERROR

    channel.client_end.close()
    channel.helper_end.close()


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

    line.client_end.send(HEAD.pack(1, Request.LOGIN) + pack_fields(b"joe", b"secret", b"192.0.2.1"))
    helper.respond(line)

    failed = HEAD.pack(1, Status.FAILED) + SIZE.pack(PAM_SYSTEM_ERROR)
    assert line.client_end.recv(MESSAGE_SIZE) == failed
    line.client_end.close()
    line.helper_end.close()


def test_supervisor_starts_the_helper_again_if_fork_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "certificate"
    file.write_bytes(b"content")
    monkeypatch.setattr(os, "fork", fork_that_fails(2))
    line = HelperChannel([str(file)])
    lifeline = os.pipe()

    supervisor = fork_supervisor("test", [line], lifeline, [], 1.0)

    try:
        assert line.read_file(str(file)) == b"content"
    finally:
        for descriptor in lifeline:
            os.close(descriptor)
        os.waitpid(supervisor, 0)
        line.client_end.close()
