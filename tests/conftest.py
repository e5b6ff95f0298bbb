"""For all tests: skips under CI, evidence of failures, temporary folders."""

import os
import resource
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import pytest

from tests.support.folders import ROOT, checkout_is_public, public_folder


@runtime_checkable
class HasEvidence(Protocol):
    """A fixture whose evidence is shown when a test fails."""

    def evidence(self) -> str: ...


def pytest_sessionstart() -> None:
    """Refuse to run as root where perdition, which drops root, could not read itself."""
    if os.geteuid() == 0 and not checkout_is_public():
        raise pytest.UsageError(
            f"{ROOT} is not readable for other users, as which tests run perdition: "
            "use a checkout elsewhere, such as in /usr/local/src, or chmod its folders"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a skipped test fails; a failed test shows the evidence of its fixtures."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        assert isinstance(report.longrepr, tuple)
        *_, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}: under CI that is a failure"
    if report.failed and report.when != "teardown":  # then some fixtures have no files any more
        # Two fixtures may return the same object.
        values = {id(value): (name, value) for name, value in item.funcargs.items()}
        for name, value in values.values():
            if isinstance(value, HasEvidence) and not isinstance(value, type):
                report.sections.append((name, evidence_of(value)))
    return report


def evidence_of(fixture: HasEvidence) -> str:
    try:
        return fixture.evidence()
    except Exception as error:  # noqa: BLE001 - pytest would not report the test's own failure
        return f"no evidence: {error!r}"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder that perdition can read without root."""
    with public_folder() as path:
        yield path


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise this process's soft limit of open files to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
