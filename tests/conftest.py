"""What holds for every test: how skips count, what a failure tells, where files go."""

import os
import resource
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import pytest

from tests.support.folders import public_folder


@runtime_checkable
class Witness(Protocol):
    """Whatever can tell what happened: when a test fails, its fixtures are asked."""

    def evidence(self) -> str: ...


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a skipped test has failed; a failed test shows what its fixtures saw."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        assert isinstance(report.longrepr, tuple)
        *_, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}: under CI that is a failure"
    if report.failed and report.when != "teardown":  # then some witnesses have no files any more
        # A fixture that only prepares another one is the same witness under two names.
        witnesses = {id(value): (name, value) for name, value in item.funcargs.items()}
        for name, value in witnesses.values():
            if isinstance(value, Witness) and not isinstance(value, type):
                report.sections.append((name, value.evidence()))
    return report


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder that perdition may read without root, too."""
    with public_folder() as path:
        yield path


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open as many files as it may; perdition has to see to itself."""
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
