"""Servers that popmaps are kept on, from the distribution's packages: started, hung and ended.

Each has its files in a folder and listens on a port of its own on 127.0.0.1. Users come into it by
perdition's own set-up tools.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from tests.support import processes
from tests.support.proxy import BIN, ROOT
from tests.support.wait import DEADLINE, until


class MapServer(ABC):
    """A server that runs while this is used as a context; none of its processes outlives that."""

    kind: ClassVar[str]
    """What ``map_library`` calls its map."""
    programs: ClassVar[tuple[str, ...]]
    account: ClassVar[str] = "root"
    """Who runs it, where we are root."""
    killed_by: ClassVar[signal.Signals] = signal.SIGKILL
    loose: ClassVar[frozenset[str]] = frozenset()
    """Keys that this kind of server takes for joe's by its own rules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        [self.port] = processes.free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._output = folder / "output"
        self.certificate = folder / "tls" / "certificate.pem"
        self.key = folder / "tls" / "key.pem"

    @classmethod
    def missing(cls) -> str:
        """What is not installed, or ""."""
        absent = [name for name in cls.programs if not cls.program(name)]
        return f"not installed: {', '.join(absent)}" if absent else ""

    @classmethod
    def program(cls, name: str) -> str | None:
        """Where a program is."""
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        return shutil.which(name, path=":".join(["/usr/bin:/usr/sbin", *map(str, versions)]))

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def prepare(self) -> None:
        """Make what the server needs before its first start."""

    @abstractmethod
    def command(self) -> list[str]:
        """What runs the server in the foreground."""

    @abstractmethod
    def load(self, lines: str) -> None:
        """Have the map hold these users only; a line is ``key:value``."""

    @abstractmethod
    def option(self, *, port: int | None = None) -> str:
        """The ``map_library_opt`` that leads here; to another port, a server like this one."""

    @abstractmethod
    def option_of_two(self, first: int) -> str:
        """One that leads to a server on the port ``first``, and then here."""

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                **self.as_account(),
            )
        running = self._process
        until(lambda: self.ready() or running.poll() is not None, self.evidence)
        assert running.poll() is None, self.evidence()

    def ready(self) -> bool:
        """Whether it can be asked."""
        return processes.listening(self.port)

    def stop(self) -> None:
        """End the server without a farewell to anybody, even if it hangs, and what it started."""
        if not self._process:
            return
        family = self.family()
        self._signal(family, self.killed_by)
        self._signal(family, signal.SIGCONT)
        self._process.wait(DEADLINE)
        self._process = None
        until(lambda: not any(map(alive, family)), lambda: f"end of {family}: {self.evidence()}")

    def restart(self) -> None:
        """End it, and start it again."""
        self.stop()
        self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Have it accept connections and say nothing."""
        family = self.family()
        self._signal(family, signal.SIGSTOP)
        try:
            until(lambda: all(stat(pid)[:1] == ["T"] for pid in family), "all of it stops")
            yield
        finally:
            self._signal(self.family(), signal.SIGCONT)

    def family(self) -> list[int]:
        """The server and the processes that it started: some make sessions of their own."""
        assert self._process
        names = (entry.name for entry in Path("/proc").iterdir())
        parents = {int(name): parent_of(int(name)) for name in names if name.isdecimal()}
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    @staticmethod
    def _signal(family: list[int], number: signal.Signals) -> None:
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def evidence(self) -> str:
        """What it said."""
        return f"{self.kind}: {self._output.read_text(errors='replace')[-3000:]}"

    def as_account(self) -> dict[str, Any]:
        """What makes subprocess run a program as whoever runs the server."""
        if self.account == "root" or os.getuid() != 0:
            return {}
        account = pwd.getpwnam(self.account)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def run(self, *command: str, text: str = "") -> str:
        """Run a program to its end; gives what it wrote."""
        done = subprocess.run(
            [self.program(command[0]) or command[0], *command[1:]],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
            cwd=self.folder,
            **self.as_account(),
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
        written: str = done.stdout.decode()
        return written

    def certify(self) -> None:
        """Make a certificate for 127.0.0.1 and its key."""
        self.give(self.key.parent)
        self.run(
            *("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2"),
            *("-subj", "/CN=popmap", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(self.key), "-out", str(self.certificate)),
        )

    def give(self, path: Path) -> None:
        """Make a folder that is the account's."""
        path.mkdir(exist_ok=True)
        if account := self.as_account():
            os.chown(path, account["user"], account["group"])


def stat(pid: int) -> list[str]:
    """What the system tells of a process: its state, its parent, and more; empty without one."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # The command's name is in parentheses and may itself have blanks and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def parent_of(pid: int) -> int:
    """A process's parent; 0 if there is no such process, or it has ended."""
    state, parent, *_ = stat(pid) or ["Z", "0"]
    return 0 if state == "Z" else int(parent)


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    return bool(parent_of(pid))


def makedb(kind: str, lines: str, *options: str) -> str:
    """What a set-up tool of ours writes."""
    command = [str(BIN / f"perditiondb_{kind}_makedb"), *options]
    done = subprocess.run(
        command, input=lines.encode(), capture_output=True, timeout=60, check=True
    )
    assert not done.stderr, done.stderr
    return done.stdout.decode()


PASSWORD = "s3:cret"
"""It has a colon in it, so that it only fits into an option by a file."""


class SQLServer(MapServer):
    """A server whose option is a list of parts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.password_file = folder / "password"
        self.password_file.write_text(f"{PASSWORD}\n")
        self.has_tls = True

    def option(self, *, port: int | None = None) -> str:
        return f"127.0.0.1:{port or self.port}:dbperdition:::@{self.password_file}"

    def option_with_tls(self, authorities: str | Path, host: str = "127.0.0.1") -> str:
        """One whose server must show a certificate for its name, from those authorities."""
        return f"{host}:{self.port}:dbperdition:::@{self.password_file}::::{authorities}"

    def option_of_two(self, first: int) -> str:
        # The hosts share a port: the first one is an address where nobody listens on it.
        del first
        return f"127.0.0.2,127.0.0.1:{self.port}:dbperdition:::@{self.password_file}"


class MariaDB(SQLServer):
    """MariaDB."""

    kind = "mysql"
    loose = frozenset({"joe "})  # SQL pads texts for a comparison
    programs = ("mariadbd", "mariadb-install-db", "mariadb", "openssl")
    account = "mysql"

    def prepare(self) -> None:
        self.certify()
        self.give(self.folder / "data")
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
        self.run(
            "mariadb", "--no-defaults", "-uroot", f"-S{self.folder}/data/socket", text=statements
        )


class PostgreSQL(SQLServer):
    """PostgreSQL."""

    kind = "postgresql"
    programs = ("initdb", "postgres", "psql", "createdb", "openssl")
    account = "postgres"
    killed_by = signal.SIGQUIT  # immediately; after SIGKILL others of its processes go on

    def prepare(self) -> None:
        self.certify()
        self.give(self.folder / "data")
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


class OpenLDAP(MapServer):
    """OpenLDAP, with TLS on a second port and StartTLS on the first."""

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
include {ROOT}/etc/ldap/perdition.schema
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
        """The option that looks for users there."""
        account = [
            "!bindname=cn=perdition%2cdc=nodomain",
            f"x-bindpw=@{self.password_file}",
            *extensions,
        ]
        return f"{where}/{self.base}?username,mailhost,port?one?(uid=%s)?{','.join(account)}"


class Redis(MapServer):
    """Redis."""

    kind = "redis"
    programs = ("redis-server", "redis-cli")

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


class AuthService(MapServer):
    """An HTTP service such as nginx asks, in a process of its own."""

    kind = "http"
    programs = ()

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


def pairs(lines: str) -> list[tuple[str, str]]:
    """The keys and values of ``key:value`` lines."""
    return [(line.partition(":")[0], line.partition(":")[2]) for line in lines.splitlines()]
