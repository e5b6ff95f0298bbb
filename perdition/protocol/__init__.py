"""The protocols, by the names that ``--protocol`` takes."""

from typing import NamedTuple

from perdition.protocol.base import Protocol
from perdition.protocol.imap4 import IMAP4
from perdition.protocol.managesieve import ManageSieve
from perdition.protocol.pop3 import POP3


class Service(NamedTuple):
    """A protocol as a site offers it: its name, its port, and whether TLS comes first there."""

    name: str
    protocol: Protocol
    port: int
    tls: bool = False


SERVICES = {
    service.name: service
    for service in (
        Service("POP3", POP3(), 110),
        Service("POP3S", POP3(), 995, tls=True),
        Service("IMAP4", IMAP4(), 143),
        Service("IMAP4S", IMAP4(), 993, tls=True),
        Service("MANAGESIEVE", ManageSieve(), 4190),
    )
}
