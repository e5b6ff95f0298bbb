"""A user logs in to every instance here, and reads the first message or the names of scripts."""

import socket
import sys
from pathlib import Path

from tests.support.mail_clients import ClientSettings, standard_imap4, standard_pop3
from tests.support.sieve import SieveClient
from tests.support.wait import DEADLINE

AUTHORITY = Path("/authority.pem")

if __name__ == "__main__":
    user, password = sys.argv[1], "secret"
    print(standard_pop3(ClientSettings(110, user, password), Path()))
    print(standard_imap4(ClientSettings(143, user, password), Path()))
    print(standard_pop3(ClientSettings(995, user, password, "ssl", AUTHORITY), Path()))
    print(standard_imap4(ClientSettings(993, user, password, "ssl", AUTHORITY), Path()))
    sieve = SieveClient(socket.create_connection(("127.0.0.1", 4190), DEADLINE))
    sieve.login(user, password)
    print(sieve.listscripts())
    sieve.logout()
