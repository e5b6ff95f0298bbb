"""Says why the python that runs this cannot run perdition, if so. An older one reads it too."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"perdition needs Python 3.11 or later, and {sys.executable} is {sys.version.split()[0]}: "
        "make PYTHON=/path/to/python3"
    )

try:
    import dbm.gnu  # noqa: F401
except ImportError:
    sys.exit(
        f"{sys.executable} has no dbm.gnu, which perdition's default popmap is made of: use the "
        "distribution's own python3 with its package python3-gdbm (make PYTHON=/usr/bin/python3)"
    )
