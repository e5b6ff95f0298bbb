"""A popmap in an LDAP directory."""

import re
from os import fsdecode
from typing import NamedTuple
from urllib.parse import quote

import ldap
import ldapurl
from ldap.cidict import cidict
from ldap.ldapobject import LDAPObject

from perdition.endpoint import MAX_PORT, Endpoint
from perdition.failure import StartupError
from perdition.options.table import Options
from perdition.options.values import is_number
from perdition.popmap import Destination, Query, one_line
from perdition.popmap.ldap_escape import escaped
from perdition.popmap.secret import secret
from perdition.popmap.server import ServerMap

DEFAULT_URL = "ldap://localhost/ou=mailbox,dc=nodomain?username,mailhost,port?one?(uid=%s)"
ATTRIBUTES = ["username", "mailhost", "port"]
SCOPES = {
    "": ldap.SCOPE_BASE,
    "base": ldap.SCOPE_BASE,
    "one": ldap.SCOPE_ONELEVEL,
    "onelevel": ldap.SCOPE_ONELEVEL,
    "sub": ldap.SCOPE_SUBTREE,
    "subtree": ldap.SCOPE_SUBTREE,
    "children": ldap.SCOPE_SUBORDINATE,
    "subordinate": ldap.SCOPE_SUBORDINATE,
}
"""The names that libldap knows, in lower case."""
START_TLS = {"starttls", "x-starttls", "1.3.6.1.4.1.1466.20037"}
EXTENSIONS = {"bindname", "x-bindpw", "x-cacertfile", *START_TLS}
MAX_WIDTH = 999
"""Maximum characters to which a key is padded."""
NO_SERVER = "ldapi://%2Fdev%2Fnull"
"""A Unix socket to which no connection is possible."""

KEY_MARK = re.compile("\ue000([0-9]*)\ue001")
"""Marks the position of the key in a parsed URL, in private use characters, which no URL contains.
The number is the width to which the key is padded on the left."""


def open_map(options: Options) -> "LDAPMap":
    """Open a map in a directory; ``map_library_opt`` is ``[version:]url``. Raises StartupError."""
    return LDAPMap(Directory.parse(options.map_library_opt or DEFAULT_URL), options)


class Directory(NamedTuple):
    """The directory and the search in it.

    ``base`` and ``filter`` contain marks for the key. ``attributes`` name the user, the
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
    def parse(cls, text: str) -> "Directory":
        """Read ``[version:]url``; raises StartupError."""
        version, url = text[:2], text[2:]
        if version not in ("2:", "3:"):
            version, url = "3:", text
        url, scope = without_scope(marked(url))
        try:
            read = ldapurl.LDAPUrl(url)
            extensions = {name.lower(): extra.exvalue for name, extra in read.extensions.items()}
        except (ValueError, AttributeError):  # AttributeError: nothing after the last "?"
            raise StartupError(
                f"map_library_opt: expected an LDAP URL, for example {DEFAULT_URL}"
            ) from None
        check_extensions(read)
        return cls(
            version=int(version[0]),
            servers=servers(read),
            base=read.dn,
            attributes=read.attrs or ATTRIBUTES,
            scope=scope,
            filter=checked_filter(read.filterstr or "(objectClass=*)"),
            bind_name=extensions.get("bindname") or "",
            password=secret(extensions.get("x-bindpw") or ""),
            start_tls=not START_TLS.isdisjoint(extensions),
            authorities=extensions.get("x-cacertfile") or "",
        )


class LDAPMap(ServerMap[LDAPObject]):
    """Entries of a directory; the first one that a filter matches is used."""

    errors = (ldap.LDAPError,)

    def __init__(self, directory: Directory, options: Options) -> None:
        super().__init__(directory.servers, options)
        self.directory = directory

    def connect(self, server: str) -> LDAPObject:
        directory = self.directory
        connection = ldap.initialize(server)
        connection.set_option(ldap.OPT_PROTOCOL_VERSION, directory.version)
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, self.server_timeout)
        connection.set_option(ldap.OPT_TIMEOUT, self.server_timeout)
        if directory.authorities:
            connection.set_option(ldap.OPT_X_TLS_CACERTFILE, directory.authorities)
            connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        if directory.start_tls:
            connection.start_tls_s()
        connection.simple_bind_s(directory.bind_name, directory.password)
        return connection

    def ask(self, connection: LDAPObject, query: Query) -> Destination | None:
        directory = self.directory
        base = with_key(directory.base, query.key)
        try:
            results = connection.search_ext_s(
                base,
                directory.scope,
                with_key(directory.filter, query.key),
                directory.attributes,
                timeout=self.server_timeout,
            )
        except (ldap.NO_SUCH_OBJECT, ldap.INVALID_DN_SYNTAX):
            if base != directory.base:
                return None  # the base contains the key, and there is no such name
            raise
        entries = [attributes for name, attributes in results if name]  # the others are referrals
        return self.destination(entries[0]) if entries else None

    def destination(self, entry: dict[str, list[bytes]]) -> Destination:
        """Return an entry's destination; the server's attribute may contain the port."""
        values = cidict(entry)
        user, host, port = (
            fsdecode(values.get(attribute, [b""])[0]) for attribute in self.three_attributes()
        )
        server = Endpoint.parse(host)
        return Destination(server._replace(port=port) if port else server, user)

    def three_attributes(self) -> list[str]:
        """Return the names of the attributes for user, server and port; "" has no value."""
        return [*self.directory.attributes, "", ""][:3]

    def explain(self, error: Exception) -> str:
        """Return libldap's description of an error."""
        details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        texts = [details[name] for name in ("desc", "info") if details.get(name)]
        return ": ".join(texts) or one_line(error)

    def disconnect(self, connection: LDAPObject) -> None:
        connection.unbind_ext_s()


def check_extensions(url: ldapurl.LDAPUrl) -> None:
    """Raise StartupError for an unknown extension that is critical (RFC 4516, section 2)."""
    for name, extension in url.extensions.items():
        if extension.critical and name.lower() not in EXTENSIONS:
            raise StartupError(
                f"map_library_opt: unknown extension '!{name}': expected bindname, x-bindpw, "
                "StartTLS or x-cacertfile"
            )


def servers(url: ldapurl.LDAPUrl) -> list[str]:
    """Return the URL of each server; raises StartupError, without the text: it may be a password.

    libldap accepts a port that is too large.
    """
    hosts = url.hostport.split() or [""]
    if url.urlscheme == "ldapi":  # the host is the path of a Unix socket
        hosts = [quote(path, safe="") for path in hosts]
    found = [f"{url.urlscheme}://{host}" for host in hosts]
    for number, server in enumerate(found, 1):
        port = Endpoint.parse(server.partition("://")[2]).port
        try:
            ldap.initialize(server)
            valid = not is_number(port) or int(port[:6]) <= MAX_PORT
        except ldap.LDAPError:
            valid = False
        if not valid:
            raise StartupError(
                f"map_library_opt: server {number} of the LDAP URL: expected host, host:port or "
                f"[IPv6 address]:port, with a port up to {MAX_PORT}"
            )
    return found


def checked_filter(text: str) -> str:
    """Return a filter if libldap can parse it; raises StartupError.

    libldap parses it before it tries to connect.
    """
    try:
        ldap.initialize(NO_SERVER).search_ext("", ldap.SCOPE_BASE, with_key(text, "x"))
    except ldap.FILTER_ERROR:
        raise StartupError(
            "map_library_opt: the filter of the LDAP URL is malformed; expected one such as "
            "(uid=%s), with balanced parentheses"
        ) from None
    except ldap.LDAPError:
        pass
    return text


def marked(url: str) -> str:
    """Return a URL with marks in place of ``%s``; raises StartupError.

    ``%20s`` is the padded key in the filter only: in a name, it is a space and an s.
    """
    parts = url.split("?")
    parts[0] = parts[0].replace("%s", "\ue000\ue001")
    if len(parts) > 3:
        widths = re.findall(r"%0*([0-9]*)s", parts[3])
        if any(len(width) > len(str(MAX_WIDTH)) for width in widths):
            raise StartupError(
                "map_library_opt: the width of %s in the filter of the LDAP URL is too large; "
                f"expected up to {MAX_WIDTH}, for example %20s"
            )
        parts[3] = re.sub(r"%0*([0-9]*)s", "\ue000\\1\ue001", parts[3])
    return "?".join(parts)


def without_scope(url: str) -> tuple[str, int]:
    """Return a URL without its scope, and the scope; raises StartupError.

    ldapurl knows only the names of RFC 4516, and only in lower case.
    """
    parts = url.split("?")
    if len(parts) < 3:
        return url, ldap.SCOPE_BASE
    name = parts[2].strip()
    if name.lower() not in SCOPES:
        raise StartupError(
            f"map_library_opt: scope {name!r}: expected base, onelevel, subtree or children"
        )
    parts[2] = ""
    return "?".join(parts), SCOPES[name.lower()]


def with_key(text: str, key: str) -> str:
    """Return a name or filter with the key in place of its marks."""
    return KEY_MARK.sub(lambda match: escaped(key.rjust(int(match[1] or 0))), text)
