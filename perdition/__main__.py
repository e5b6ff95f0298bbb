"""The entry of every program: the name that it was called by selects it.

``python3 -m perdition NAME [argument...]`` is what ``bin/*`` run; the scripts of the packages and
those that pip makes call ``main``.
"""

import gc
import os
import sys

gc.disable()  # there is no garbage at startup; serving processes enable it again


def main(argv: list[str] = sys.argv) -> int:
    """Run the program of which ``argv[0]`` is the name or the path; return the exit status."""
    name = os.path.basename(argv[0])
    if name.startswith("make"):
        from perdition.makedb.files import main as run
    elif name.endswith("_makedb"):
        from perdition.makedb.servers import main as run
    else:
        from perdition.cli import main as run
    return run(name, argv[1:])


if __name__ == "__main__":
    named = len(sys.argv) > 1 and not sys.argv[1].startswith("-")
    sys.exit(main(sys.argv[1:] if named else ["perdition", *sys.argv[1:]]))
