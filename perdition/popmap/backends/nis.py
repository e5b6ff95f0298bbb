"""A popmap in NIS.

Its functions wait for as long as there is no server, and know no time limit: they run in processes
of their own. Python's module for them is gone since 3.13; the C library's are not.
"""

from perdition.options.table import Options
from perdition.popmap.child_process import PYTHON, ProcessMap


def open_map(options: Options) -> ProcessMap:
    """Open a map in NIS; ``map_library_opt`` is its name, of the default domain."""
    return ProcessMap(
        "nis", (*PYTHON, "perdition.popmap.backends.nis_process"), options.map_library_opt, options
    )
