"""What holds for all tests of maps on servers."""

import ssl
from typing import Any

import pytest


@pytest.fixture
def strict_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ssl verify as Python 3.13 does by default, whichever this is."""
    default_context = ssl.create_default_context

    def strict_context(*arguments: Any, **named: Any) -> ssl.SSLContext:
        context = default_context(*arguments, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict_context)
    monkeypatch.setattr(ssl, "_create_default_https_context", strict_context)
