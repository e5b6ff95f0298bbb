"""How a child process has exited, in words."""

import signal


def describe_status(code: int) -> str:
    """Return what subprocess and os.waitstatus_to_exitcode encode: a status, or minus a signal."""
    return f"exited with status {code}" if code >= 0 else f"was killed by {signal_name(-code)}"


def signal_name(number: int) -> str:
    """Return the name of a signal; real-time signals have only a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
