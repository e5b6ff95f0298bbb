"""A popmap in an LDAP directory."""

import re
from os import fsdecode
from typing import NamedTuple

import ldap
import ldapurl
from ldap.cidict import cidict
from ldap.ldapobject import LDAPObject

from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, Query, one_line
from perdition.popmap.backends.ldap_escape import escaped
from perdition.popmap.secret import secret
from perdition.popmap.server import ServerMap

DEFAULT_URL = "ldap://localhost/ou=mailbox,dc=nodomain?username,mailhost,port?one?(uid=%s)"
ATTRIBUTES = ["username", "mailhost", "port"]
START_TLS = {"starttls", "x-starttls", "1.3.6.1.4.1.1466.20037"}

KEY_MARK = re.compile("\ue000([0-9]*)\ue001")
"""Where the key goes, in an address that has been read: between characters that no address has.
A number is the width to which the key is padded on the left."""


def open_map(options: Options) -> "LDAPMap":
    """Open a map in a directory; ``map_library_opt`` is ``[version:]url``. Raises StartupError."""
    return LDAPMap(Where.parse(options.map_library_opt or DEFAULT_URL), options)


class Where(NamedTuple):
    """Where the directory is, and what to search there for.

    ``base`` and ``filter`` have a mark where the key goes. ``attributes`` name the user, the
    server and the port; trailing ones may be missing.
    """

    version: int
    servers: list[str]
    base: str
    attributes: list[str]
    scope: int
    filter: str
    bind_name: str
    password: str
    start_tls: bool
    authorities: str

    @classmethod
    def parse(cls, text: str) -> "Where":
        """Read ``[version:]url``; raises StartupError."""
        version, url = text[:2], text[2:]
        if version not in ("2:", "3:"):
            version, url = "3:", text
        try:
            read = ldapurl.LDAPUrl(marked(url))
        except ValueError:
            raise StartupError(
                "map_library_opt: it is not an LDAP URL; give e.g. " + DEFAULT_URL
            ) from None
        extensions = {name.lower(): given.exvalue for name, given in read.extensions.items()}
        return cls(
            version=int(version[0]),
            servers=[f"{read.urlscheme}://{host}" for host in read.hostport.split() or [""]],
            base=read.dn,
            attributes=read.attrs or ATTRIBUTES,
            scope=ldap.SCOPE_BASE if read.scope is None else read.scope,
            filter=read.filterstr or "(objectClass=*)",
            bind_name=extensions.get("bindname") or "",
            password=secret(extensions.get("x-bindpw") or ""),
            start_tls=not START_TLS.isdisjoint(extensions),
            authorities=extensions.get("x-cacertfile") or "",
        )


class LDAPMap(ServerMap[LDAPObject]):
    """Entries of a directory that a filter finds; the first one counts."""

    errors = (ldap.LDAPError,)

    def __init__(self, where: Where, options: Options) -> None:
        super().__init__(where.servers, options)
        self.where = where

    def connect(self, server: str) -> LDAPObject:
        where = self.where
        connection = ldap.initialize(server)
        connection.set_option(ldap.OPT_PROTOCOL_VERSION, where.version)
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, self.patience)
        connection.set_option(ldap.OPT_TIMEOUT, self.patience)
        if where.authorities:
            connection.set_option(ldap.OPT_X_TLS_CACERTFILE, where.authorities)
            connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        if where.start_tls:
            connection.start_tls_s()
        connection.simple_bind_s(where.bind_name, where.password)
        return connection

    def ask(self, connection: LDAPObject, query: Query) -> Destination | None:
        where = self.where
        base = with_key(where.base, query.key)
        try:
            found = connection.search_ext_s(
                base,
                where.scope,
                with_key(where.filter, query.key),
                where.attributes,
                timeout=self.patience,
            )
        except (ldap.NO_SUCH_OBJECT, ldap.INVALID_DN_SYNTAX):
            if base != where.base:
                return None  # the key is part of the name of what there is not
            raise
        entries = [attributes for name, attributes in found if name]  # the others are referrals
        return self.destination(entries[0]) if entries else None

    def destination(self, entry: dict[str, list[bytes]]) -> Destination:
        """Return what an entry says; a port in the server's attribute is good, too."""
        given = cidict(entry)
        user, host, port = (
            fsdecode(given.get(attribute, [b""])[0]) for attribute in self.three_attributes()
        )
        server = Endpoint.parse(host)
        return Destination(server._replace(port=port) if port else server, user)

    def three_attributes(self) -> list[str]:
        """Return the names of the attributes for user, server and port; "" has no value."""
        return [*self.where.attributes, "", ""][:3]

    def explain(self, error: Exception) -> str:
        """Return what is wrong, as the directory's own tools put it."""
        details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        said = [details[name] for name in ("desc", "info") if details.get(name)]
        return ": ".join(said) or one_line(error)

    def disconnect(self, connection: LDAPObject) -> None:
        connection.unbind_ext_s()


def marked(url: str) -> str:
    """Return a URL with marks where the key goes.

    Only in the filter, where no blank goes before an s, is ``%20s`` the padded key.
    """
    parts = url.split("?")
    parts[0] = parts[0].replace("%s", "\ue000\ue001")
    if len(parts) > 3:
        parts[3] = re.sub(r"%([0-9]*)s", "\ue000\\1\ue001", parts[3])
    return "?".join(parts)


def with_key(text: str, key: str) -> str:
    """Return a name or a filter with the key in the place of its marks."""
    return KEY_MARK.sub(lambda found: escaped(key.rjust(int(found[1] or 0))), text)
