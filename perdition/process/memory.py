"""What a process does for its memory."""

import gc


def settle() -> None:
    """Collect garbage from now on, but not in what a start has left: that is there to stay.

    To look through it would copy the pages that processes share from before their fork.
    """
    gc.freeze()
    gc.enable()
