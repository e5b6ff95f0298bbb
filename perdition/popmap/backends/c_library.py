"""A popmap that a site has made: a C library as perditiondb(5) describes them."""

import os
import subprocess

from perdition.failure import StartupError
from perdition.files import START_DIRECTORY
from perdition.options.table import Options
from perdition.popmap.child_process import PYTHON, ProcessMap, describe_exit


def open_map(path: str, options: Options) -> "CLibraryMap":
    """Open a site's library; a bare name is looked for where the system's libraries are."""
    return CLibraryMap(os.path.join(START_DIRECTORY, path) if "/" in path else path, options)


class CLibraryMap(ProcessMap):
    """A site's library, opened with the site's own option."""

    def __init__(self, path: str, options: Options) -> None:
        command = (*PYTHON, "perdition.popmap.backends.c_library_process", path)
        super().__init__(path, command, options.map_library_opt, options)
        self.time_limit = options.map_timeout

    def check(self) -> None:
        """Have a process of its own load the library and look for what it must have."""
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
            raise StartupError(f"map_library {path}: loading it takes too long; mend it") from None
        if code := checked.returncode:
            said = checked.stderr.decode(errors="replace").strip().splitlines()
            fate = said[-1] if said and code > 0 else describe_exit(code)
            raise StartupError(f"map_library {path}: {fate}; give a library as in perditiondb(5)")
