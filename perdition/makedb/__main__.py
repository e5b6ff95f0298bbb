"""``python3 -m perdition.makedb NAME [argument...]``: NAME is what the tool was called by."""

import sys
from pathlib import Path

from perdition.makedb import files

sys.exit(files.main(Path(sys.argv[1]).name, sys.argv[2:]))
