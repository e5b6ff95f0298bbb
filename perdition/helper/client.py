"""The helper's client on an event loop."""

import socket
from collections.abc import Callable
from contextlib import suppress

from perdition.failure import StartupError
from perdition.helper.channel import (
    FILE_SECONDS,
    HEAD,
    HELPER_RESTARTED,
    SIZE,
    HelperChannel,
    Request,
    Status,
    file_content,
    first_id,
    pack_fields,
    receive_message,
)
from perdition.net.loop import READ, Handler, Loop, Task, Timer, suspend


class HelperUnavailable(Exception):
    """The helper cannot be reached or does not reply."""


class HelperClient(Handler):
    """Sends requests to the helper for the sessions of a loop, several at a time."""

    def __init__(self, loop: Loop, channel: HelperChannel) -> None:
        self.loop = loop
        self.channel = channel
        self.next_id = first_id()
        self.waiting: dict[int, Task] = {}
        self.send(self.next_id, Request.RESET)
        loop.watch(channel.client_end.fileno(), READ, self)

    async def read_file(self, path: str) -> bytes:
        """Return the content of a file; raises StartupError."""
        try:
            body = SIZE.pack(self.channel.files.index(path))
            status, reply = await self.request(Request.FILE, body, FILE_SECONDS)
        except HelperUnavailable as error:
            raise StartupError(f"{path}: {error}") from error
        return file_content(status, reply)

    async def login(self, user: bytes, password: bytes, address: bytes, seconds: float) -> int:
        """Return PAM's error number for a user and password: 0 if they are accepted.

        Raises HelperUnavailable, including after ``seconds`` (0: no limit).
        """
        body = pack_fields(user, password, address)
        status, reply = await self.request(Request.LOGIN, body, seconds)
        (code,) = SIZE.unpack(reply)
        return 0 if status == Status.READY else int(code)

    async def request(self, kind: Request, body: bytes, seconds: float) -> tuple[int, bytes]:
        """Return the status and the body of the reply; raises HelperUnavailable."""
        self.next_id += 1
        identifier = self.next_id
        message = HEAD.pack(identifier, kind) + body
        try:
            self.channel.client_end.send(message, socket.MSG_DONTWAIT)
        except OSError as error:
            raise HelperUnavailable(f"the helper cannot be reached: {error.strerror}") from error

        def arm(task: Task) -> Callable[[], None]:
            timer: Timer | None = None
            self.waiting[identifier] = task
            if seconds:
                timer = self.loop.call_later(seconds, lambda: self.give_up(identifier))

            def disarm() -> None:
                self.waiting.pop(identifier, None)
                if timer:
                    self.loop.timers.cancel(timer)

            return disarm

        try:
            reply: tuple[int, bytes] = await suspend(arm)
        except BaseException:
            self.send(identifier, Request.CANCEL)
            raise
        return reply

    def send(self, identifier: int, kind: Request) -> None:
        """Send a request that has no reply, if the helper can be reached."""
        with suppress(OSError):
            self.channel.client_end.send(HEAD.pack(identifier, kind), socket.MSG_DONTWAIT)

    def ready(self, events: int) -> None:
        """Pass a reply to the task that waits for it, if there still is one."""
        try:
            message = receive_message(self.channel.client_end, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self.loop.watch(self.channel.client_end.fileno(), 0, self)
            self.give_up_all()
            return
        identifier, status = HEAD.unpack_from(message)
        if identifier == HELPER_RESTARTED:
            self.give_up_all()
        elif task := self.waiting.get(identifier):
            task.answer((status, message[HEAD.size :]))

    def give_up(self, identifier: int) -> None:
        """Fail the request with that id, if a task still waits for it."""
        if task := self.waiting.get(identifier):
            task.answer(error=HelperUnavailable("the helper does not reply"))

    def give_up_all(self) -> None:
        for identifier in list(self.waiting):
            self.give_up(identifier)
