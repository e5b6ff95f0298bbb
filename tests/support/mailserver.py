"""A small real server: POP3, IMAP4 and ManageSieve in one process, for the demo and the tests.

    python3 -m tests.support.mailserver --name north joe:secret ann:word

It prints one line of JSON with its three ports, and ends when its standard input does, so that it
never outlives its parent. It stores nothing: each user always has the same few messages
and scripts. What only a real store would need is left out.
"""

import argparse
import asyncio
import base64
import binascii
import json
import re
import resource
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

Handler = Callable[[str], Awaitable[str | None]]

LINE_LIMIT = 1 << 20
BACKLOG = 1024


@dataclass(frozen=True)
class MailServer:
    """The users and their mail."""

    name: str
    passwords: dict[str, str]

    def knows(self, user: str, password: str) -> bool:
        """Whether user and password are right."""
        return self.passwords.get(user) == password

    def messages(self, user: str) -> list[bytes]:
        """The mail of the logged-in user."""
        return [
            (
                f"From: postmaster@{self.name}.example\r\n"
                f"To: {user}@example.org\r\n"
                f"Subject: {subject}\r\n"
                "\r\n"
                f"{subject} from {self.name}, {user}.\r\n"
            ).encode()
            for subject in ("Welcome", "News", "Regards")
        ]

    def scripts(self, user: str) -> dict[str, bytes]:
        """The user's Sieve scripts, the active one first."""
        return {
            f"{user}-on-{self.name}": b'redirect "%s@example.org";\r\n' % user.encode(),
            "spare": b"keep;\r\n",
        }


class ServerSession:
    """A client's connection: what the three protocols have in common."""

    before_login: frozenset[str]
    literal_at_end = re.compile(r"\{(\d+)(\+?)\}$")

    def __init__(
        self, server: MailServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.user = ""
        self.open = True

    async def run(self) -> None:
        """Greet, then answer a command at a time until the client is done."""
        await self.greet()
        while self.open and (line := await self.line()) is not None:
            await self.answer(line)

    async def greet(self) -> None:
        """Say who is here."""
        raise NotImplementedError

    async def answer(self, line: str) -> None:
        """Do what a command says."""
        raise NotImplementedError

    def handler(self, verb: str) -> Handler | None:
        """The method for *verb*, if there is one that is allowed in this state."""
        allowed = self.user or verb.upper() in self.before_login
        return getattr(self, f"on_{verb.lower()}", None) if allowed else None

    async def line(self) -> str | None:
        """The client's next line without its end, None when there is none."""
        line = await self.reader.readline()
        return line.decode("utf-8", "surrogateescape").rstrip("\r\n") if line else None

    async def with_literals(self, line: str) -> str:
        """The whole command that begins with *line*, its literals turned into quoted strings."""
        while literal := self.literal_at_end.search(line):
            if not literal[2]:
                await self.send("+ go on")
            raw = await self.reader.readexactly(int(literal[1]))
            string = raw.decode("utf-8", "surrogateescape")
            line = f"{line[: literal.start()]}{quoted(string)}{await self.line()}"
        return line

    async def send(self, *lines: str | bytes) -> None:
        """Send whole lines."""
        for line in lines:
            raw = line if isinstance(line, bytes) else line.encode("utf-8", "surrogateescape")
            self.writer.write(raw + b"\r\n")
        await self.writer.drain()

    def log_in(self, user: str, password: str) -> bool:
        """Log the user in if the password is right."""
        if self.server.knows(user, password):
            self.user = user
        return bool(self.user)

    def messages(self) -> list[bytes]:
        """The mail of the logged-in user."""
        return self.server.messages(self.user)


class Pop3(ServerSession):
    """RFC 1939 and 2449, as far as a mail reader needs."""

    before_login = frozenset({"CAPA", "NOOP", "USER", "PASS", "QUIT"})
    candidate = ""

    async def greet(self) -> None:
        """Say who is here."""
        await self.send(f"+OK POP3 {self.server.name} ready")

    async def answer(self, line: str) -> None:
        """One command, one answer."""
        verb, _, argument = line.partition(" ")
        if handler := self.handler(verb):
            await handler(argument)
        else:
            await self.send("-ERR unknown command, or not now")

    async def on_capa(self, _: str) -> None:
        """CAPA"""
        await self.send("+OK", "USER", "UIDL", "TOP", "RESP-CODES", "PIPELINING", ".")

    async def on_noop(self, _: str) -> None:
        """NOOP"""
        await self.send("+OK")

    async def on_user(self, name: str) -> None:
        """USER name"""
        self.candidate = name
        await self.send("+OK")

    async def on_pass(self, password: str) -> None:
        """PASS password: the rest of the line, blanks and all."""
        ok = self.log_in(self.candidate, password)
        await self.send(f"+OK {self.server.name} lets you in" if ok else "-ERR [AUTH] no")

    async def on_stat(self, _: str) -> None:
        """STAT"""
        messages = self.messages()
        await self.send(f"+OK {len(messages)} {sum(map(len, messages))}")

    async def on_list(self, number: str) -> None:
        """LIST [number]"""
        await self.tell(number, lambda message: str(len(message)))

    async def on_uidl(self, number: str) -> None:
        """UIDL [number]"""
        await self.tell(number, lambda message: f"{binascii.crc32(message):08x}")

    async def tell(self, number: str, fact: Callable[[bytes], str]) -> None:
        """A fact about one message, or about each."""
        rows = [f"{n} {fact(message)}" for n, message in enumerate(self.messages(), 1)]
        if number:
            await self.send(f"+OK {rows[int(number) - 1]}")
        else:
            await self.send("+OK", *rows, ".")

    async def on_retr(self, number: str) -> None:
        """RETR number; no line of our messages begins with a dot."""
        await self.send("+OK", self.messages()[int(number) - 1] + b".")

    async def on_quit(self, _: str) -> None:
        """QUIT"""
        self.open = False
        await self.send(f"+OK {self.server.name} says goodbye")


class Imap4(ServerSession):
    """RFC 3501 with LITERAL+ and ID, as far as a mail reader needs."""

    before_login = frozenset({"CAPABILITY", "NOOP", "ID", "LOGIN", "LOGOUT"})
    capabilities = "IMAP4rev1 LITERAL+ ID UNSELECT"

    async def greet(self) -> None:
        """Say who is here, and what it can do."""
        await self.send(f"* OK [CAPABILITY {self.capabilities}] IMAP4 {self.server.name} ready")

    async def answer(self, line: str) -> None:
        """One command with its literals: its untagged data, then its tagged answer."""
        tag, _, command = (await self.with_literals(line)).partition(" ")
        verb, _, arguments = command.partition(" ")
        if verb.upper() == "UID":  # A message's number is its UID too.
            verb, _, arguments = arguments.partition(" ")
        if handler := self.handler(verb):
            outcome = await handler(arguments) or f"OK {verb.upper()} done"
            await self.send(f"{tag} {outcome}")
        else:
            await self.send(f"{tag} BAD unknown command, or not now")

    async def on_capability(self, _: str) -> None:
        """CAPABILITY"""
        await self.send(f"* CAPABILITY {self.capabilities}")

    async def on_noop(self, _: str) -> None:
        """NOOP"""

    async def on_id(self, _: str) -> None:
        """ID"""
        await self.send(f'* ID ("name" "{self.server.name}")')

    async def on_login(self, arguments: str) -> str:
        """LOGIN user password"""
        user, password = strings(arguments)
        if not self.log_in(user, password):
            return "NO [AUTHENTICATIONFAILED] no"
        return f"OK [CAPABILITY {self.capabilities}] {self.server.name} lets you in"

    async def on_logout(self, _: str) -> None:
        """LOGOUT"""
        self.open = False
        await self.send(f"* BYE {self.server.name} says goodbye")

    async def on_list(self, _: str) -> None:
        """LIST reference pattern: there is one mailbox."""
        await self.send('* LIST (\\HasNoChildren) "/" INBOX')

    async def on_select(self, _: str) -> str:
        """SELECT mailbox"""
        count = len(self.messages())
        await self.send(f"* {count} EXISTS", "* 0 RECENT", "* FLAGS ()", "* OK [UIDVALIDITY 1] ok")
        return "OK [READ-WRITE] SELECT done"

    on_examine = on_select

    async def on_search(self, _: str) -> None:
        """SEARCH criteria: everything is found."""
        numbers = range(1, len(self.messages()) + 1)
        await self.send(f"* SEARCH {' '.join(map(str, numbers))}")

    async def on_fetch(self, arguments: str) -> None:
        """FETCH set items"""
        numbers, _, wanted = arguments.partition(" ")
        for number in self.numbers(numbers):
            message = self.messages()[number - 1]
            items = b" ".join([b"UID %d" % number, *fetch_items(message, wanted)])
            await self.send(b"* %d FETCH (%s)" % (number, items))

    def numbers(self, text: str) -> Iterable[int]:
        """The messages of a sequence set."""
        last = len(self.messages())
        for part in text.replace("*", str(last)).split(","):
            first, _, end = part.partition(":")
            yield from range(int(first), min(int(end or first), last) + 1)

    async def on_close(self, _: str) -> None:
        """CLOSE"""

    on_unselect = on_close


class ManageSieve(ServerSession):
    """RFC 5804, as far as a script reader needs."""

    before_login = frozenset({"CAPABILITY", "NOOP", "AUTHENTICATE", "LOGOUT"})

    async def greet(self) -> None:
        """The capabilities are the greeting."""
        await self.on_capability("")

    async def answer(self, line: str) -> None:
        """One command with its literals, one answer."""
        verb, _, arguments = (await self.with_literals(line)).partition(" ")
        if handler := self.handler(verb):
            await handler(arguments)
        else:
            await self.send('NO "unknown command, or not now"')

    async def on_capability(self, _: str) -> None:
        """CAPABILITY"""
        await self.send(
            f'"IMPLEMENTATION" "{self.server.name}"',
            '"SIEVE" "fileinto"',
            '"SASL" "PLAIN"',
            '"VERSION" "1.0"',
            f'OK "{self.server.name} is ready."',
        )

    async def on_noop(self, tag: str) -> None:
        """NOOP [tag]"""
        await self.send(f'OK (TAG {tag}) "done"' if tag else 'OK "done"')

    async def on_authenticate(self, arguments: str) -> None:
        """AUTHENTICATE "PLAIN" [initial response]"""
        _, *response = strings(arguments)
        if not response:
            await self.send('""')
            response = strings(await self.with_literals(await self.line() or ""))
        _, user, password = base64.b64decode(response[0]).decode().split("\0")
        ok = self.log_in(user, password)
        await self.send(f'OK "{self.server.name} lets you in."' if ok else 'NO "no"')

    async def on_listscripts(self, _: str) -> None:
        """LISTSCRIPTS"""
        active, *others = self.server.scripts(self.user)
        await self.send(f'"{active}" ACTIVE', *(f'"{name}"' for name in others), "OK")

    async def on_getscript(self, arguments: str) -> None:
        """GETSCRIPT name"""
        script = self.server.scripts(self.user).get(strings(arguments)[0])
        if script is None:
            await self.send('NO (NONEXISTENT) "no such script"')
        else:
            await self.send(literal(script), "OK")

    async def on_logout(self, _: str) -> None:
        """LOGOUT"""
        self.open = False
        await self.send(f'OK "{self.server.name} says goodbye."')


PROTOCOLS: dict[str, type[ServerSession]] = {
    "pop3": Pop3,
    "imap4": Imap4,
    "managesieve": ManageSieve,
}


def quoted(string: str) -> str:
    """A quoted string of IMAP and ManageSieve."""
    return '"' + re.sub(r'(["\\])', r"\\\1", string) + '"'


def strings(arguments: str) -> list[str]:
    """The arguments, quoted or not."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|([^\s"]+)', arguments, re.DOTALL)
    return [atom or re.sub(r"\\(.)", r"\1", string, flags=re.DOTALL) for string, atom in found]


def literal(content: bytes) -> bytes:
    """A literal as a server sends it."""
    return b"{%d}\r\n%s" % (len(content), content)


def fetch_items(message: bytes, wanted: str) -> Iterable[bytes]:
    """The data items of a FETCH, in a fixed order."""
    head, _, text = message.partition(b"\r\n\r\n")
    for pattern, name, value in (
        (r"\bFLAGS", b"FLAGS", b"()"),
        (r"RFC822\.SIZE", b"RFC822.SIZE", b"%d" % len(message)),
        (r"BODY(\.PEEK)?\[\]|RFC822(?!\.)", b"BODY[]", literal(message)),
        (r"BODY(\.PEEK)?\[HEADER\]", b"BODY[HEADER]", literal(head + b"\r\n\r\n")),
        (r"BODY(\.PEEK)?\[TEXT\]", b"BODY[TEXT]", literal(text)),
    ):
        if re.search(pattern, wanted, re.IGNORECASE):
            yield name + b" " + value


async def serve(server: MailServer, address: str, ports: Iterable[int]) -> None:
    """Serve the three protocols, tell their ports, and end with standard input."""
    listening = {}
    for (name, protocol), port in zip(PROTOCOLS.items(), ports, strict=True):
        listener = await asyncio.start_server(
            connected(server, protocol), address, port, limit=LINE_LIMIT, backlog=BACKLOG
        )
        listening[name] = listener.sockets[0].getsockname()[1]
    print(json.dumps(listening), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def connected(
    server: MailServer, protocol: type[ServerSession]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """asyncio's callback for connections of that protocol."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # The client left.
            await protocol(server, reader, writer).run()
        writer.close()

    return converse


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="mail", help="what the server calls itself")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--ports", type=int, nargs=3, default=[0, 0, 0], metavar="PORT")
    parser.add_argument("users", nargs="*", metavar="USER:PASSWORD")
    options = parser.parse_args()

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    passwords = dict(user.split(":", 1) for user in options.users)
    asyncio.run(serve(MailServer(options.name, passwords), options.address, options.ports))


if __name__ == "__main__":
    main()
