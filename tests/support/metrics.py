"""A scraper of perdition's metrics."""

import http.client
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.wait import DEADLINE, until

Address = tuple[str, int] | Path
Figures = dict[tuple[str, frozenset[str]], float]
"""By the name of a sample and the values of its labels."""


class Scraper:
    """Scrapes one perdition, at a port or a Unix socket."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @property
    def option(self) -> tuple[str, str]:
        """Makes perdition serve its metrics at this address."""
        place = self.address
        written = str(place) if isinstance(place, Path) else "{}:{}".format(*place)
        return "--metrics_address", written

    def connect(self) -> socket.socket:
        """Wait until the address accepts a connection on which nothing was sent."""
        return until(self._connected, f"somebody listens at {self.address}")

    def _connected(self) -> socket.socket | None:
        """A connection, None if it is refused."""
        place = str(self.address) if isinstance(self.address, Path) else self.address
        sock = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        sock.settimeout(DEADLINE)
        try:
            sock.connect(place)
        except (ConnectionRefusedError, FileNotFoundError):
            sock.close()
            return None
        return sock

    def text(self) -> str:
        """The answer to a GET /metrics."""
        connection = http.client.HTTPConnection("localhost", timeout=DEADLINE)
        connection.sock = self.connect()
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, f"{answer.status}: {text}"
        return text

    def figures(self) -> Figures:
        """All samples, without the protocol's label, which all have."""
        return {
            (sample.name, frozenset(set(sample.labels.values()) - {sample.labels["protocol"]})): (
                sample.value
            )
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }

    def value(self, name: str, *labels: str) -> float:
        return self.figures()[f"perdition_{name}", frozenset(labels)]

    def expect(self, value: float, name: str, *labels: str) -> None:
        """Wait until a sample has that value."""
        until(lambda: self.value(name, *labels) == value, lambda: f"{name} {value}\n{self.text()}")
