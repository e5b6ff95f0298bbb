"""``python3 -m perdition NAME [option...]``: NAME is what perdition was called by."""

import gc
import sys

gc.disable()  # starting makes no garbage; serving processes turn it on again

from perdition.cli import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
