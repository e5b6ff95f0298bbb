"""The protocols, by the names that the option ``protocol`` accepts."""

from typing import NamedTuple

from perdition.protocol.base import Protocol
from perdition.protocol.imap4 import IMAP4
from perdition.protocol.managesieve import ManageSieve
from perdition.protocol.pop3 import POP3


class MailService(NamedTuple):
    """A protocol with its default port. ``tls``: implicit TLS, as on the ports 993 and 995."""

    name: str
    protocol: Protocol
    port: int
    tls: bool = False


SERVICES = {
    service.name: service
    for service in (
        MailService("POP3", POP3(), 110),
        MailService("POP3S", POP3(), 995, tls=True),
        MailService("IMAP4", IMAP4(), 143),
        MailService("IMAP4S", IMAP4(), 993, tls=True),
        MailService("MANAGESIEVE", ManageSieve(), 4190),
    )
}
