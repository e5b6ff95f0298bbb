"""Users who log in again and again, whatever happens to perdition meanwhile."""

import threading
from typing import Self

from tests.support.proxy import Proxy
from tests.support.session import DIALOGUES
from tests.support.wait import DEADLINE, until
from tests.support.wire import Wire

ALSO_AFTERWARDS = 20
"""Logins that have to succeed in a row."""


class Users:
    """They log in, ask something and log out, one after the other, while this is a context."""

    def __init__(self, proxy: Proxy, password: str) -> None:
        self._proxy = proxy
        self._password = password
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._log_in_again_and_again)
        self._in_a_row = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def expect_successes(self, count: int = ALSO_AFTERWARDS, deadline: float = DEADLINE) -> None:
        """Wait for that many further successful logins in a row."""
        until(
            lambda: self._in_a_row >= count,
            lambda: f"{count} logins; failures: {self.failures}\n{self._proxy.evidence()}",
            deadline,
        )

    def start_counting(self) -> None:
        """Count successes from here on."""
        self._in_a_row = 0

    def _log_in_again_and_again(self) -> None:
        while not self._done.is_set():
            try:
                self._log_in_once()
            except (AssertionError, OSError) as error:
                self.failures.append(str(error))
                self._in_a_row = 0
            else:
                self._in_a_row += 1

    def _log_in_once(self) -> None:
        dialogue = DIALOGUES[self._proxy.protocol]
        with Wire.to(self._proxy.address) as wire:
            wire.read_until(dialogue.greeting)
            for command, answer in (
                *dialogue.credentials("joe", self._password),
                dialogue.question,
            ):
                wire.ask(command, answer)
            wire.send(dialogue.farewell + b"\r\n")
            wire.read_to_end()
