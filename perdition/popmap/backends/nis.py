"""A popmap in NIS.

libnsl waits without a time limit for a server, so it runs in child processes. It is called through
ctypes because Python 3.13 removed the module nis.
"""

from perdition.options.table import Options
from perdition.popmap.process_map import PYTHON, ProcessMap


def open_map(options: Options) -> ProcessMap:
    """Open a map in NIS; ``map_library_opt`` is its name in the default domain."""
    return ProcessMap(
        "nis", (*PYTHON, "perdition.popmap.backends.nis_process"), options.map_library_opt, options
    )
