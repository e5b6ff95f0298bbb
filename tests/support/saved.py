"""Files of the system that a test changes and that are restored afterwards."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def saved(path: Path) -> Iterator[Path]:
    """A file or folder that may be changed or removed; its old state is restored, even if it did
    not exist.
    """
    with tempfile.TemporaryDirectory(prefix="saved-", dir=path.parent) as keep:
        copy = Path(keep, path.name)
        existed = path.exists()
        if path.is_dir():
            shutil.copytree(path, copy, symlinks=True)
        elif existed:
            shutil.copy2(path, copy)
        try:
            yield path
        finally:
            _remove(path)
            if existed:
                shutil.move(copy, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
