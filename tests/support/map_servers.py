"""The servers of popmaps, from the distribution's packages."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tests.support import processes
from tests.support.folders import BIN, ROOT
from tests.support.map_server import MapServer


def makedb(kind: str, lines: str, *options: str) -> str:
    """The output of one of perdition's set-up tools."""
    command = [str(BIN / f"perditiondb_{kind}_makedb"), *options]
    done = subprocess.run(
        command, input=lines.encode(), capture_output=True, timeout=60, check=True
    )
    assert not done.stderr, done.stderr
    return done.stdout.decode()


PASSWORD = "s3:cret"
"""It has a colon in it, so that it only fits into an option by a file."""


class SQLServer(MapServer):
    """A server whose option is a list of fields."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.password_file = folder / "password"
        self.password_file.write_text(f"{PASSWORD}\n")
        self.has_tls = True

    def option(self, *, port: int | None = None) -> str:
        return f"127.0.0.1:{port or self.port}:dbperdition:::@{self.password_file}"

    def option_with_tls(self, authorities: str | Path, host: str = "127.0.0.1") -> str:
        """The option with these authorities, one of which must have issued the server's
        certificate.
        """
        return f"{host}:{self.port}:dbperdition:::@{self.password_file}::::{authorities}"

    def option_of_two(self, first: int) -> str:
        # Both hosts have this port; no server listens on the first one's address.
        del first
        return f"127.0.0.2,127.0.0.1:{self.port}:dbperdition:::@{self.password_file}"


class MariaDB(SQLServer):
    kind = "mysql"
    loose = frozenset({"joe "})  # SQL pads texts for a comparison
    programs = ("mariadbd", "mariadb-install-db", "mariadb", "openssl")
    account = "mysql"

    def prepare(self) -> None:
        self.certify()
        self.chown_to_account(self.folder / "data")
        self.run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.folder}/data",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )

    def command(self) -> list[str]:
        return [
            self.program("mariadbd") or "",
            "--no-defaults",
            f"--datadir={self.folder}/data",
            f"--socket={self.folder}/data/socket",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            *((f"--ssl-cert={self.certificate}", f"--ssl-key={self.key}") if self.has_tls else ()),
            "--innodb-buffer-pool-size=16M",
            "--innodb-flush-log-at-trx-commit=2",
        ]

    def load(self, lines: str) -> None:
        statements = makedb(
            "mysql",
            lines,
            *("--database", "dbperdition"),
            *("--client", "%", "--password", f"@{self.password_file}"),
        )
        # Since version 11.4 the client verifies the certificate on a local socket, too.
        local = ("--skip-ssl", f"-S{self.folder}/data/socket")
        self.run("mariadb", "--no-defaults", "-uroot", *local, text=statements)


class PostgreSQL(SQLServer):
    kind = "postgresql"
    programs = ("initdb", "postgres", "psql", "createdb", "openssl")
    account = "postgres"
    killed_by = signal.SIGQUIT  # immediately; after SIGKILL others of its processes go on

    def prepare(self) -> None:
        self.certify()
        self.chown_to_account(self.folder / "data")
        self.run("initdb", "-D", f"{self.folder}/data", "--no-sync", "--auth-host=scram-sha-256")

    def command(self) -> list[str]:
        return [
            *(self.program("postgres") or "", "-D", f"{self.folder}/data"),
            *("-p", str(self.port), "-k", f"{self.folder}/data"),
            *("-c", f"ssl={'on' if self.has_tls else 'off'}"),
            *("-c", f"ssl_cert_file={self.certificate}", "-c", f"ssl_key_file={self.key}"),
            *("-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB"),
        ]

    def load(self, lines: str) -> None:
        where = ("-h", f"{self.folder}/data", "-p", str(self.port))
        with suppress(AssertionError):  # it is there already
            self.run("createdb", *where, "dbperdition")
        statements = makedb("postgresql", lines, "--password", f"@{self.password_file}")
        self.run("psql", *where, "-qv", "ON_ERROR_STOP=1", "dbperdition", text=statements)

    def ready(self) -> bool:
        with suppress(AssertionError):
            self.run("psql", "-h", f"{self.folder}/data", "-p", str(self.port), "-l", "postgres")
            return True
        return False


class DataSource(SQLServer):
    """A server that is used through an ODBC driver."""

    kind = "odbc"
    driver: ClassVar[str]

    @classmethod
    def missing(cls) -> str:
        drivers = subprocess.run(["odbcinst", "-q", "-d"], capture_output=True, check=False).stdout
        known = f"[{cls.driver}]" in drivers.decode()
        return super().missing() or ("" if known else f"not installed: {cls.driver}")

    def prepare(self) -> None:
        super().prepare()  # type: ignore[safe-super]
        self.sources.write_text(
            f"[popmap]\nDriver={self.driver}\nServer=127.0.0.1\nServername=127.0.0.1\n"
            f"Port={self.port}\nDatabase=dbperdition\n"
        )
        self.sources.chmod(0o666)  # the driver manager wants to append even where it only reads

    @property
    def sources(self) -> Path:
        """The file for ODBCINI."""
        return self.folder / "odbc.ini"

    def option(self, *, port: int | None = None) -> str:
        assert port is None, "the data source knows it"
        return f"::popmap:::@{self.password_file}"


class MariaDBByODBC(DataSource, MariaDB):
    """Its driver has no time limits."""

    driver = "MariaDB Unicode"


class PostgreSQLByODBC(DataSource, PostgreSQL):
    """Its driver rejects time limits."""

    driver = "PostgreSQL Unicode"


class OpenLDAP(MapServer):
    """With TLS on a second port and StartTLS on the first."""

    kind = "ldap"
    programs = ("slapd", "slapadd", "ldapadd", "openssl")
    loose = frozenset({"JOE", "joe ", " joe"})  # uid ignores case and blanks

    base = "ou=mailbox,dc=nodomain"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        [self.tls_port] = processes.free_ports(1)
        self.password_file = folder / "password"
        self.password_file.write_text(f"{PASSWORD}\n")

    def prepare(self) -> None:
        (self.folder / "data").mkdir()
        self.certify()
        (self.folder / "slapd.conf").write_text(
            f"""\
include /etc/ldap/schema/core.schema
include {ROOT}/packaging/etc/ldap/perdition.schema
pidfile {self.folder}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile {self.certificate}
TLSCertificateKeyFile {self.key}
allow bind_v2
disallow bind_anon
require bind
database mdb
suffix dc=nodomain
directory {self.folder}/data
maxsize 67108864
dbnosync
rootdn cn=perdition,dc=nodomain
rootpw {PASSWORD}
index uid eq
"""
        )

    def command(self) -> list[str]:
        plain, tls = f"ldap://127.0.0.1:{self.port}", f"ldaps://127.0.0.1:{self.tls_port}"
        return [
            self.program("slapd") or "",
            *("-f", f"{self.folder}/slapd.conf", "-h", f"{plain} {tls}", "-d", "none"),
        ]

    def load(self, lines: str) -> None:
        running = bool(self._process)
        self.stop()
        for file in (self.folder / "data").iterdir():
            file.unlink()
        top = "dn: dc=nodomain\nobjectClass: dcObject\nobjectClass: organization\no: n\n\n"
        entries = makedb("ldap", lines)
        self.run("slapadd", "-q", "-f", f"{self.folder}/slapd.conf", text=top + entries)
        if running:
            self.start()

    def option(self, *, port: int | None = None) -> str:
        return self.url(f"ldap://127.0.0.1:{port or self.port}")

    def option_of_two(self, first: int) -> str:
        return self.url(f"ldap://127.0.0.1:{first} 127.0.0.1:{self.port}")

    def url(self, where: str, *extensions: str) -> str:
        """The option that searches for users."""
        account = [
            "!bindname=cn=perdition%2cdc=nodomain",
            f"x-bindpw=@{self.password_file}",
            *extensions,
        ]
        return f"{where}/{self.base}?username,mailhost,port?one?(uid=%s)?{','.join(account)}"


class Redis(MapServer):
    kind = "redis"
    programs: ClassVar[tuple[str, ...]] = ("redis-server", "redis-cli")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.password_file = folder / "password"
        self.password_file.write_text(f"{PASSWORD}\n")

    def prepare(self) -> None:
        pass

    def command(self) -> list[str]:
        return [
            *(self.program("redis-server") or "", "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--requirepass", PASSWORD, "--appendonly", "yes", "--dir", str(self.folder)),
        ]

    def load(self, lines: str) -> None:
        commands = [["FLUSHDB"]]
        commands += [["SET", f"perdition:{key}", value] for key, value in pairs(lines)]
        protocol = b"".join(
            b"*%d\r\n" % len(words)
            + b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words)
            for words in commands
        )
        where = ("-p", str(self.port), "-a", PASSWORD, "--no-auth-warning")
        self.run("redis-cli", *where, "--pipe", text=protocol.decode())

    def option(self, *, port: int | None = None) -> str:
        return f"redis://:@{self.password_file}@127.0.0.1:{port or self.port}/0"

    def option_of_two(self, first: int) -> str:
        return f"{self.option(port=first)},{self.option()}"


class RedisWithTLS(Redis):
    """Redis that also listens for TLS."""

    programs = ("redis-server", "redis-cli", "openssl")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        [self.tls_port] = processes.free_ports(1)

    def prepare(self) -> None:
        self.certify()

    def command(self) -> list[str]:
        return [
            *(*super().command(), "--tls-port", str(self.tls_port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key)),
        ]


class AuthService(MapServer):
    """An HTTP service as for nginx's mail proxy, in a process of its own."""

    kind = "http"
    programs: ClassVar[tuple[str, ...]] = ()

    def prepare(self) -> None:
        (self.folder / "users").write_text("")

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "tests.support.auth_service"),
            *(str(self.port), f"{self.folder}/users"),
        ]

    def load(self, lines: str) -> None:
        (self.folder / "users").write_text(lines)

    def option(self, *, port: int | None = None) -> str:
        return f"http://127.0.0.1:{port or self.port}/auth"

    def option_of_two(self, first: int) -> str:
        return f"{self.option(port=first)},{self.option()}"


class AuthServiceWithTLS(AuthService):
    programs = ("openssl",)

    def prepare(self) -> None:
        super().prepare()
        self.certify()

    def command(self) -> list[str]:
        return [*super().command(), str(self.certificate), str(self.key)]


def pairs(lines: str) -> list[tuple[str, str]]:
    """The keys and values of ``key:value`` lines."""
    return [(line.partition(":")[0], line.partition(":")[2]) for line in lines.splitlines()]
