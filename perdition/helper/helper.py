"""The helper: runs as root, if the options need root after startup.

It rereads files that were named at startup, and asks PAM to verify passwords. It accepts no other
requests.
"""

import ctypes
import os
import selectors
import signal
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress

from setproctitle import setproctitle

from perdition.failure import StartupError
from perdition.files import reread_file
from perdition.helper.channel import (
    HEAD,
    MESSAGE_SIZE,
    SIZE,
    HelperChannel,
    Request,
    Status,
    send_file,
    unpack_fields,
)
from perdition.privileges import die_with_parent

MAX_RUNNING = 64
"""Maximum number of processes that ask PAM at the same time; further requests are queued."""

MAX_RUNNING_PER_USER = 16
"""Maximum number of these for one user, so that a user for whom PAM hangs does not block others."""

MAX_QUEUED = 4096
"""Maximum length of the queue; further requests fail at once."""

IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
"""Ignored: signals to the process group are for the master; supervisor and helper exit after it."""

PAM_SERVICE = "perdition"
PAM_SYSTEM_ERROR = 4
PAM_ACCEPTED = 117
"""Exit status of a process for which PAM accepted; no module exits with it by accident."""

PAM_RHOST = 4
PAM_FAIL_DELAY = 10
FAIL_DELAY = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
"""The type of the function that PAM calls to wait after a failure (pam_fail_delay(3))."""


class Helper:
    """Replies to requests until the master has exited."""

    def __init__(
        self, name: str, channels: list[HelperChannel], lifeline: int, login_seconds: float
    ) -> None:
        self.name = name
        self.channels = channels
        self.lifeline = lifeline
        self.login_seconds = login_seconds
        self.running: dict[int, RunningAuthentication] = {}
        self.queue: deque[AuthenticationRequest] = deque()

    def serve(self) -> None:
        """Reply to requests until the master has exited, then kill the PAM processes and return."""
        setproctitle(f"{self.name}: helper")
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.lifeline, selectors.EVENT_READ)
        for channel in self.channels:
            self.selector.register(channel.helper_end, selectors.EVENT_READ, channel)
        while True:
            for key, _ in self.selector.select(self.next_deadline()):
                if isinstance(key.data, HelperChannel):
                    self.respond(key.data)
                elif isinstance(key.data, RunningAuthentication):
                    self.finish(key.data)
                else:
                    self.kill_overdue(float("inf"))
                    return
            self.kill_overdue(time.monotonic())

    def next_deadline(self) -> float | None:
        """Return the seconds until the first running authentication times out."""
        if not self.running:
            return None
        return max(0.0, min(login.deadline for login in self.running.values()) - time.monotonic())

    def respond(self, channel: HelperChannel) -> None:
        """Read a request and reply to it, or queue it."""
        message = channel.helper_end.recv(MESSAGE_SIZE)
        if len(message) < HEAD.size:
            return  # not a valid request: the worker is broken
        identifier, wanted = HEAD.unpack_from(message)
        body = message[HEAD.size :]
        if wanted == Request.FILE:
            try:
                content = reread_file(channel.files[SIZE.unpack(body)[0]])
                with suppress(OSError):  # the client no longer reads
                    send_file(channel.helper_end, identifier, content)
            except (StartupError, IndexError, struct.error) as error:
                send_reply(channel, identifier, Status.FAILED, str(error).encode())
        elif wanted == Request.CANCEL:
            self.cancel(lambda request: request.is_of(channel, identifier))
        elif wanted == Request.RESET:
            self.cancel(lambda request: request.channel is channel)
        elif len(self.queue) >= MAX_QUEUED:
            send_reply(channel, identifier, Status.FAILED, SIZE.pack(PAM_SYSTEM_ERROR))
        else:
            deadline = time.monotonic() + self.login_seconds
            self.queue.append(AuthenticationRequest(channel, identifier, deadline, body))
            self.start_queued()

    def cancel(self, is_cancelled: Callable[["AuthenticationRequest"], bool]) -> None:
        """Remove requests from the queue, and kill the processes of those that are running."""
        self.queue = deque(request for request in self.queue if not is_cancelled(request))
        for pid, request in self.running.items():
            if is_cancelled(request):
                kill(pid)

    def start_queued(self) -> None:
        """Start queued requests, the oldest first, up to MAX_RUNNING."""
        while len(self.running) < MAX_RUNNING and (request := self.next_request()):
            if request.deadline > time.monotonic():  # otherwise its client has given up
                self.start_authentication(request)

    def next_request(self) -> "AuthenticationRequest | None":
        """Take the oldest request from the queue that MAX_RUNNING_PER_USER allows."""
        by_user = Counter(login.body for login in self.running.values())
        for request in self.queue:
            if by_user[packed_user(request.body)] < MAX_RUNNING_PER_USER:
                self.queue.remove(request)
                return request
        return None

    def start_authentication(self, request: "AuthenticationRequest") -> None:
        """Fork a process that asks PAM, because a module may wait for seconds, hang, or crash."""
        try:
            pid = os.fork()
        except OSError:
            error = SIZE.pack(PAM_SYSTEM_ERROR)
            send_reply(request.channel, request.identifier, Status.FAILED, error)
            return
        if not pid:
            code = PAM_SYSTEM_ERROR
            try:
                die_with_parent()
                for number in IGNORED_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                setproctitle(f"{self.name}: helper, authenticating")
                user, password, address = unpack_fields(request.body)
                code = authenticate_with_pam(user, password, address) or PAM_ACCEPTED
            finally:
                os._exit(code)
        login = self.running[pid] = RunningAuthentication(request, pid)
        self.selector.register(login.pidfd, selectors.EVENT_READ, login)

    def finish(self, login: "RunningAuthentication") -> None:
        """Reply with PAM's result, which is the exit status of the process that asked."""
        self.selector.unregister(login.pidfd)
        os.close(login.pidfd)
        del self.running[login.pid]
        _, wait_status = os.waitpid(login.pid, 0)
        code = os.waitstatus_to_exitcode(wait_status)
        status = Status.READY if code == PAM_ACCEPTED else Status.FAILED
        error = code if code > 0 else PAM_SYSTEM_ERROR
        send_reply(login.channel, login.identifier, status, SIZE.pack(error))
        self.start_queued()

    def kill_overdue(self, now: float) -> None:
        """Kill processes past their deadline; ``finish`` replies when they have exited."""
        for login in self.running.values():
            if login.deadline <= now:
                kill(login.pid)


class AuthenticationRequest:
    """A request to verify a password; ``deadline`` is in seconds of the monotonic clock."""

    def __init__(
        self, channel: HelperChannel, identifier: int, deadline: float, body: bytes
    ) -> None:
        self.channel = channel
        self.identifier = identifier
        self.deadline = deadline
        self.body = body

    def is_of(self, channel: HelperChannel, identifier: int) -> bool:
        return self.channel is channel and self.identifier == identifier


class RunningAuthentication(AuthenticationRequest):
    """A request with its process, which alone holds the password: ``body`` is the user only."""

    def __init__(self, request: AuthenticationRequest, pid: int) -> None:
        user = packed_user(request.body)
        super().__init__(request.channel, request.identifier, request.deadline, user)
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)


def packed_user(body: bytes) -> bytes:
    """Return the first field of a request as it was packed; the body may be malformed."""
    return body[: SIZE.size + int.from_bytes(body[: SIZE.size])]


def kill(pid: int) -> None:
    """Kill a process, unless it has exited already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def send_reply(channel: HelperChannel, identifier: int, status: Status, body: bytes) -> None:
    """Send a reply; it is dropped if the client no longer reads."""
    with suppress(OSError):
        channel.helper_end.send(HEAD.pack(identifier, status) + body, socket.MSG_DONTWAIT)


def authenticate_with_pam(user: bytes, password: bytes, address: bytes) -> int:
    """Return PAM's error number for a user and password: 0 if they are accepted."""
    from pam import PamAuthenticator

    authenticator = PamAuthenticator()
    ask = authenticator.pam_authenticate
    no_delay = FAIL_DELAY(lambda *_: None)  # the session delays its reply without a process

    def ask_with_address(handle: object, flags: int) -> int:
        # Workaround: python-pam has no option for these items, and creates the handle itself.
        authenticator.pam_set_item(handle, PAM_RHOST, ctypes.c_char_p(address))
        authenticator.pam_set_item(handle, PAM_FAIL_DELAY, ctypes.cast(no_delay, ctypes.c_void_p))
        result: int = ask(handle, flags)
        return result

    authenticator.pam_authenticate = ask_with_address
    authenticator.authenticate(user, password, PAM_SERVICE, resetcreds=False)
    code: int = authenticator.code
    return code
