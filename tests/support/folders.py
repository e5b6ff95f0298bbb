"""Folders: this checkout's, and temporary ones that other accounts can read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = ROOT / "bin"


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that other accounts can read, as perdition drops root."""
    with tempfile.TemporaryDirectory(prefix="perdition-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
