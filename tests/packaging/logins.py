"""Joe logs in to POP3, IMAP4 and ManageSieve here, and reads his first message or script."""

import socket
from pathlib import Path

from tests.support.clients import Login, standard_imap4, standard_pop3
from tests.support.sieve import SieveClient
from tests.support.wait import DEADLINE

if __name__ == "__main__":
    print(standard_pop3(Login(110, "joe", "secret"), Path()))
    print(standard_imap4(Login(143, "joe", "secret"), Path()))
    sieve = SieveClient(socket.create_connection(("127.0.0.1", 4190), DEADLINE))
    sieve.login("joe", "secret")
    print(sieve.listscripts())
    sieve.logout()
