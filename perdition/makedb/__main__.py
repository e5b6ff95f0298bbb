"""``python3 -m perdition.makedb NAME [argument...]``: NAME is the name of the tool."""

import sys
from pathlib import Path

from perdition.makedb import files, servers

name = Path(sys.argv[1]).name
tool = servers if name in servers.LANGUAGES else files
sys.exit(tool.main(name, sys.argv[2:]))
