"""A custom popmap in C: a shared library as in perditiondb(5)."""

import subprocess
from collections.abc import Hashable

from perdition.exit_status import describe_status
from perdition.failure import StartupError
from perdition.files import absolute_path
from perdition.options.table import Options
from perdition.popmap import Query
from perdition.popmap.process_map import PYTHON, ProcessMap


def open_map(path: str, options: Options) -> "CLibraryMap":
    """Open a library; a bare name is searched for in the system's library directories."""
    return CLibraryMap(absolute_path(path) if "/" in path else path, options)


class CLibraryMap(ProcessMap):
    def __init__(self, path: str, options: Options) -> None:
        command = (*PYTHON, "perdition.popmap.backends.c_library.process", path)
        super().__init__(path, command, options.map_library_opt, options)
        self.time_limit = options.map_timeout

    def cache_key(self, query: Query) -> Hashable:
        return query.key, query.ends

    def check(self) -> None:
        """Load the library in a child process and look for the required functions."""
        path = self.servers[0]
        try:
            checked = subprocess.run(
                self.command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.time_limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StartupError(
                f"map_library {path}: loading took more than map_timeout ({self.time_limit} s); "
                "repair the library"
            ) from None
        if code := checked.returncode:
            lines = checked.stderr.decode(errors="replace").strip().splitlines()
            problem = lines[-1] if lines and code > 0 else describe_status(code)
            raise StartupError(
                f"map_library {path}: {problem}; expected a library as in perditiondb(5)"
            )
