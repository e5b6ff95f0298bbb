"""Names of servers: what a failed lookup says."""

import threading

import pytest

from perdition.endpoint import Endpoint
from perdition.net import resolver as resolver_module
from perdition.net.loop import Loop
from perdition.net.resolver import Resolver
from tests.unit.loops import run


def test_lookup_that_takes_too_long_is_reported(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr(resolver_module, "RESOLVE_SECONDS", 0.1)
    resolver = Resolver(loop, numeric=False)

    def numbers_only(endpoint: Endpoint, flags: int = 0) -> None:
        if flags:
            raise OSError
        free.wait(20)

    monkeypatch.setattr(resolver_module, "resolve", numbers_only)
    with pytest.raises(TimeoutError, match=r"name lookup took longer than 0\.1 s"):
        run(loop, resolver.addresses(Endpoint("mail.example", "143")))
    free.set()


@pytest.mark.parametrize(
    "endpoint", [Endpoint("mail.example", "143"), Endpoint("192.0.2.1", "imap2")], ids=str
)
def test_names_are_not_looked_up_with_no_lookup(loop: Loop, endpoint: Endpoint) -> None:
    with pytest.raises(OSError, match="no_lookup is set: expected an IP address and a port number"):
        run(loop, Resolver(loop, numeric=True).addresses(endpoint))
