"""Folders: this checkout's, and temporary ones that other accounts can read."""

import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = ROOT / "bin"


def checkout_is_public() -> bool:
    """Whether other accounts can run perdition from this checkout; only root can ask."""
    nobody = pwd.getpwnam("nobody")
    done = subprocess.run(
        ["test", "-x", ROOT / ".venv/bin/python3", "-a", "-r", ROOT / "perdition/__main__.py"],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        check=False,
    )
    return done.returncode == 0


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that other accounts can read, as perdition drops root."""
    with tempfile.TemporaryDirectory(prefix="perdition-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
