"""``python3 -m perdition NAME [option...]``: NAME is what perdition was called by."""

import sys

from perdition.cli import main

sys.exit(main(sys.argv[1:]))
