"""Joe logs in to IMAP4 here and stays until there is /leave; then it says how the session is."""

import imaplib
from pathlib import Path

from tests.support.wait import DEADLINE, until

if __name__ == "__main__":
    with imaplib.IMAP4("127.0.0.1", 143, DEADLINE) as client:
        client.login("joe", "secret")
        print("in", flush=True)
        until(Path("/leave").exists, "nobody says when to leave", deadline=10 * DEADLINE)
        try:
            client.noop()
            print("alive", flush=True)
        except (OSError, imaplib.IMAP4.error):
            print("over", flush=True)
