"""The helper: the one process that is left as root, and only where root is needed.

It reads again the files that were named at start, and asks PAM whether a password is right; it
takes nothing else from anybody.
"""

import ctypes
import os
import selectors
import signal
import socket
import struct
import time
from collections import Counter, deque
from contextlib import suppress

from setproctitle import setproctitle

from perdition.configuration import read_file_again
from perdition.failure import StartupError
from perdition.helper_line import (
    HEAD,
    MESSAGE_SIZE,
    SIZE,
    Line,
    Status,
    Wanted,
    unpack,
)
from perdition.process.rights import die_with_parent

LOGINS_AT_ONCE = 64
"""Each is a process; further ones wait for their turn."""
LOGINS_OF_A_USER = 16
"""So many of them at the most, lest a user for whom PAM hangs keeps all others out."""
LOGINS_WAITING = 4096
"""Further ones are refused."""
ENDED_BY_LIFELINE = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
"""Signals that are for the master: keeper and helper end when it has."""
PAM_SERVICE = "perdition"
PAM_SYSTEM_ERROR = 4
RIGHT = 117
"""The status of a process to which PAM has said yes: none that a module ends it with by chance."""
PAM_RHOST = 4
PAM_FAIL_DELAY = 10
FAIL_DELAY = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
"""What PAM calls to wait after a failure (pam_fail_delay(3))."""


class Helper:
    """Answers requests until the master has gone."""

    def __init__(self, name: str, lines: list[Line], lifeline: int, login_seconds: float) -> None:
        self.name = name
        self.lines = lines
        self.lifeline = lifeline
        self.login_seconds = login_seconds
        self.logins: dict[int, Login] = {}
        self.waiting: deque[Question] = deque()

    def serve(self) -> None:
        """Answer requests until the master has gone; logins under way end with it."""
        setproctitle(f"{self.name}: helper")
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.lifeline, selectors.EVENT_READ)
        for line in self.lines:
            self.selector.register(line.helpers, selectors.EVENT_READ, line)
        while True:
            for key, _ in self.selector.select(self.next_deadline()):
                if isinstance(key.data, Line):
                    self.respond(key.data)
                elif isinstance(key.data, Login):
                    self.finish(key.data)
                else:
                    self.end_logins(float("inf"))
                    return
            self.end_logins(time.monotonic())

    def next_deadline(self) -> float | None:
        """Return the seconds until a login takes too long."""
        if not self.logins:
            return None
        return max(0.0, min(login.until for login in self.logins.values()) - time.monotonic())

    def respond(self, line: Line) -> None:
        """Answer a request, or begin to."""
        message = line.helpers.recv(MESSAGE_SIZE)
        if len(message) < HEAD.size:
            return  # no request of ours: a worker has run wild, and another one comes in its place
        identifier, wanted = HEAD.unpack_from(message)
        body = message[HEAD.size :]
        if wanted == Wanted.FILE:
            try:
                answer(line, identifier, Status.READY, self.read(line, body))
            except (StartupError, IndexError, struct.error) as error:
                answer(line, identifier, Status.FAILED, str(error).encode())
        elif wanted == Wanted.CANCEL:
            self.cancel(line, identifier)
        elif len(self.waiting) >= LOGINS_WAITING:
            answer(line, identifier, Status.FAILED, SIZE.pack(PAM_SYSTEM_ERROR))
        else:
            until = time.monotonic() + self.login_seconds
            self.waiting.append(Question(line, identifier, until, body))
            self.begin_logins()

    def cancel(self, line: Line, identifier: int) -> None:
        """Forget a question, or have the process that asks PAM end."""
        for question in self.waiting:
            if question.is_of(line, identifier):
                self.waiting.remove(question)
                return
        for pid, question in self.logins.items():
            if question.is_of(line, identifier):
                kill(pid)

    def read(self, line: Line, body: bytes) -> bytes:
        """Return the file whose number is asked for; raises StartupError."""
        path = line.files[SIZE.unpack(body)[0]]
        content = read_file_again(path)
        if len(content) > MESSAGE_SIZE - HEAD.size:
            raise StartupError(f"{path}: longer than {MESSAGE_SIZE - HEAD.size} octets; shorten it")
        return content

    def begin_logins(self) -> None:
        """Ask PAM what has waited longest, while there is room."""
        while len(self.logins) < LOGINS_AT_ONCE and (question := self.next_question()):
            if question.until > time.monotonic():  # else its asker has given up
                self.begin_login(question)

    def next_question(self) -> "Question | None":
        """Take what has waited longest, and is not of a user who is asked about often enough."""
        asked = Counter(login.body for login in self.logins.values())
        for question in self.waiting:
            if asked[packed_user(question.body)] < LOGINS_OF_A_USER:
                self.waiting.remove(question)
                return question
        return None

    def begin_login(self, question: "Question") -> None:
        """Ask PAM in a process of its own: a module may wait for seconds, hang, or crash.

        Where the system allows no further one, this question alone has no answer.
        """
        try:
            pid = os.fork()
        except OSError:
            failed = SIZE.pack(PAM_SYSTEM_ERROR)
            answer(question.line, question.identifier, Status.FAILED, failed)
            return
        if not pid:
            code = PAM_SYSTEM_ERROR
            try:
                die_with_parent()
                for number in ENDED_BY_LIFELINE:
                    signal.signal(number, signal.SIG_DFL)
                setproctitle(f"{self.name}: helper, authenticating")
                user, password, address = unpack(question.body)
                code = ask_pam(user, password, address) or RIGHT
            finally:
                os._exit(code)
        login = self.logins[pid] = Login(question, pid)
        self.selector.register(login.pidfd, selectors.EVENT_READ, login)

    def finish(self, login: "Login") -> None:
        """Pass on what PAM has said: the status of the process that asked it."""
        self.selector.unregister(login.pidfd)
        os.close(login.pidfd)
        del self.logins[login.pid]
        _, ended = os.waitpid(login.pid, 0)
        code = os.waitstatus_to_exitcode(ended)
        status = Status.READY if code == RIGHT else Status.FAILED
        reason = code if code > 0 else PAM_SYSTEM_ERROR
        answer(login.line, login.identifier, status, SIZE.pack(reason))
        self.begin_logins()

    def end_logins(self, now: float) -> None:
        """Kill the processes whose time is over; they are answered for when they have ended."""
        for login in self.logins.values():
            if login.until <= now:
                kill(login.pid)


class Question:
    """Whether a password is right: whose question that is, and until when it counts.

    ``until`` is in seconds of the monotonic clock.
    """

    def __init__(self, line: Line, identifier: int, until: float, body: bytes) -> None:
        self.line = line
        self.identifier = identifier
        self.until = until
        self.body = body

    def is_of(self, line: Line, identifier: int) -> bool:
        """Tell whether this is the question with that id."""
        return self.line is line and self.identifier == identifier


class Login(Question):
    """A question that PAM is being asked, by a process that alone has the password.

    Its ``body`` is the user and no more.
    """

    def __init__(self, question: Question, pid: int) -> None:
        user = packed_user(question.body)
        super().__init__(question.line, question.identifier, question.until, user)
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)


def packed_user(body: bytes) -> bytes:
    """Return a question's first field, as it is packed; a worker that runs wild may send any."""
    return body[: SIZE.size + int.from_bytes(body[: SIZE.size])]


def kill(pid: int) -> None:
    """Kill a process that asks PAM, if it has not ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def answer(line: Line, identifier: int, status: Status, body: bytes) -> None:
    """Send an answer; who no longer reads has no use for it."""
    with suppress(OSError):
        line.helpers.send(HEAD.pack(identifier, status) + body, socket.MSG_DONTWAIT)


def ask_pam(user: bytes, password: bytes, address: bytes) -> int:
    """Return PAM's number for what it says of a user and a password: 0 if they are right."""
    from pam import PamAuthenticator

    authenticator = PamAuthenticator()
    ask = authenticator.pam_authenticate
    no_delay = FAIL_DELAY(lambda *_: None)  # the session waits, and takes up no process for it

    def ask_with_address(handle: object, flags: int) -> int:
        # The library has no word for these, but this is where PAM has been started.
        authenticator.pam_set_item(handle, PAM_RHOST, ctypes.c_char_p(address))
        authenticator.pam_set_item(handle, PAM_FAIL_DELAY, ctypes.cast(no_delay, ctypes.c_void_p))
        result: int = ask(handle, flags)
        return result

    authenticator.pam_authenticate = ask_with_address
    authenticator.authenticate(user, password, PAM_SERVICE, resetcreds=False)
    code: int = authenticator.code
    return code
