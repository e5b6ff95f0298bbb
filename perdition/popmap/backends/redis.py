"""A popmap in Redis: one string per user."""

import ssl
from os import fsdecode, fsencode
from typing import Any

import redis

from perdition.failure import StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, Query
from perdition.popmap.secret import url_with_secret
from perdition.popmap.server import ServerMap
from perdition.popmap.server_tls import client_context

DEFAULT_URL = "redis://localhost:6379/0"
DEFAULT_NAME = "perdition:%s"


class TLSConnection(redis.SSLConnection):  # type: ignore[misc]
    """A connection with our context; how strict the library's is depends on Python's version."""

    def _connect(self) -> Any:
        if self.ssl_validate_ocsp or self.ssl_validate_ocsp_stapled:
            return super()._connect()
        context = client_context()
        context.check_hostname = self.check_hostname and self.cert_reqs != ssl.CERT_NONE
        context.verify_mode = self.cert_reqs
        if self.certfile or self.keyfile:
            context.load_cert_chain(self.certfile, self.keyfile, self.certificate_password)
        if self.ca_certs or self.ca_path or self.ca_data:
            context.load_verify_locations(self.ca_certs, self.ca_path, self.ca_data)
        if ciphers := getattr(self, "ssl_ciphers", None):  # older versions have none
            context.set_ciphers(ciphers)
        connected = super(redis.SSLConnection, self)._connect()
        return context.wrap_socket(connected, server_hostname=self.host)


def open_map(options: Options) -> "RedisMap":
    """Open a map in Redis; raises StartupError.

    ``map_library_opt`` is ``[url[,url...]][ name]``; in the name, ``%s`` is the key.
    """
    urls, _, name = options.map_library_opt.partition(" ")
    return RedisMap((urls or DEFAULT_URL).split(","), name or DEFAULT_NAME, options)


class RedisMap(ServerMap[Any]):
    """Strings ``[user@]host[:port]``, each under the user's key."""

    errors = (redis.RedisError, OSError, UnicodeError)

    def __init__(self, urls: list[str], name: str, options: Options) -> None:
        self.urls = {url.rpartition("@")[2]: url_with_secret(url) for url in urls}
        super().__init__(list(self.urls), options)
        self.name = name
        try:
            for server in self.servers:
                self.client(server).connection_pool.make_connection()  # does not connect yet
        except (ValueError, TypeError):  # their texts may contain the password
            raise StartupError(
                f"map_library_opt: expected a URL, for example {DEFAULT_URL}"
            ) from None

    def client(self, server: str) -> Any:
        """Return a client of a server; it connects when it is first used."""
        url = self.urls[server]
        settings: dict[str, Any] = {"socket_timeout": self.server_timeout}
        if not url.startswith("unix:"):  # Unix sockets have no time limit for connecting
            settings["socket_connect_timeout"] = self.server_timeout
        if url.startswith("rediss:"):
            settings |= {"connection_class": TLSConnection, "ssl_check_hostname": True}
        return redis.Redis.from_url(url, **settings)

    def connect(self, server: str) -> Any:
        return self.client(server)

    def ask(self, connection: Any, query: Query) -> Destination | None:
        value = connection.get(fsencode(self.name.replace("%s", query.key)))
        return None if value is None else Destination.parse(fsdecode(value), self.delimiter)

    def disconnect(self, connection: Any) -> None:
        connection.close()
        connection.connection_pool.disconnect()
