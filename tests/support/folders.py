"""Temporary folders."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that other accounts may look into: perdition started by root gives root up."""
    with tempfile.TemporaryDirectory(prefix="perdition-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
