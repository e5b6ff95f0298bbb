"""The process that a popmap runs its lookups in."""

import socket
import subprocess
import sys
from contextlib import closing

from perdition.popmap.process_map import FOUND, MAX_MESSAGE, REQUEST_PREFIX, STATUS

BACKEND = """
import ctypes
import sys
from perdition.popmap.lookup_process import serve

class Dumpable:
    def start(self, option):
        return %d, b"%%d" %% ctypes.CDLL(None).prctl(%d, 0, 0, 0, 0)
    def close(self):
        pass

serve(Dumpable(), int(sys.argv[1]))
"""
PR_GET_DUMPABLE = 3


def test_lookup_process_is_not_dumpable() -> None:
    """It may know a database password, and exec(3) allows dumps again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", BACKEND % (FOUND, PR_GET_DUMPABLE), str(theirs.fileno())]
    with closing(ours), closing(theirs):
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        ours.send(REQUEST_PREFIX)
        answer = ours.recv(MAX_MESSAGE)
    assert process.wait() == 0
    assert answer[STATUS.size :] == b"0"
