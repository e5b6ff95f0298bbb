"""One session, from a client's connection to the splice that moves its bytes."""

import itertools
import os
import socket
from collections.abc import Callable
from os import fsencode

from perdition.converse import PAUSE_SECONDS, Conversation
from perdition.failure import Failure
from perdition.log import Login, auth_line, close_line, connect_line, fault, printable
from perdition.login import Attempt, Site, in_turn
from perdition.net.loop import Timer
from perdition.net.splice import Splice
from perdition.net.stream import Abandoned, PeerClosed, Stream
from perdition.net.wire import TLSFailed
from perdition.option_kinds import TLSUse
from perdition.protocol.dialogue import Credentials, Dialogue, Terms
from perdition.username import Ends

DETAIL_SIZE = 400
"""Characters of a failure's detail that are logged."""


class Session:
    """A client's connection until it is logged in.

    ``on_end`` is called once, when the client has gone, however far the session has come.
    """

    def __init__(
        self, site: Site, sock: socket.socket, ends: Ends, on_end: Callable[[Ends], None]
    ) -> None:
        self.site = site
        self.options = site.options
        self.protocol = site.options.service.protocol
        self.ends = ends
        self.on_end = on_end
        self.stream = Stream(site.loop, sock, site.options.authenticate_timeout)
        self.client = Conversation(
            self.stream,
            "CLIENT",
            site.log,
            self.options.logs_connections,
            site.tls.wrap if site.tls else None,
        )
        self.turns = itertools.count(next(site.turns))

    async def run(self) -> None:
        """Serve the client until it has left, or its bytes are the splice's."""
        self.site.log.info(connect_line(self.ends, self.site.inetd_pid))
        established = False
        try:
            established = await self.serve()
        except (PeerClosed, Abandoned):
            pass
        except TimeoutError:
            self.site.log.notice(f"{self.ends}: timeout before the login")
        except TLSFailed as error:
            self.site.log.notice(f"{self.ends}: no TLS with the client: {error}")
        except Exception as error:  # noqa: BLE001 - one session must not end the others
            self.site.log.error(f"{self.ends}: {fault(error)}")
        finally:
            if not established:
                self.stream.close()
                self.site.log.info(close_line(self.ends, "", "", None))
                self.on_end(self.ends)

    async def serve(self) -> bool:
        """Greet the client and let it try until it is logged in; tell whether it is."""
        hostname = await self.banner()
        if self.site.tls and self.options.tls.listen is TLSUse.SSL:
            await self.stream.start_tls(self.site.tls.wrap, "ssl")
        await self.client.say(self.protocol.greeting(hostname, self.terms()))
        own_greeting = self.protocol.own_greeting(hostname)
        attempts = itertools.count(1)
        while credentials := await self.client.hold(self.dialogue()):
            servers = in_turn(self.options.outgoing_server, self.turns)
            attempt = Attempt(
                self.site, self.ends, credentials, self.stream.secure, servers, next(attempts)
            )
            try:
                with self.stream.guarded():
                    server, accepted = await attempt.log_in(own_greeting)
            except Failure as failure:
                self.log_failure(attempt, failure)
                await self.stream.pause(self.penalty(credentials, failure))
                verbatim = self.options.answers_as_server
                await self.client.say(self.protocol.refusal(credentials, failure, verbatim))
            else:
                login = attempt.record(server.secure)
                ok_line = None if self.options.answers_as_server else self.options.ok_line
                welcome = self.protocol.welcome(credentials, accepted, ok_line)
                self.client.note("SELF", welcome)
                Established(self, server, login).splice(
                    welcome, self.stream.leftover(), server.leftover()
                )
                return True
        return False

    def dialogue(self) -> Dialogue[Credentials | None]:
        """Return the dialogue with the client, as its connection now is."""
        return self.protocol.client(self.terms(), self.terms(secure=True))

    def terms(self, secure: bool = False) -> Terms:
        """Return the terms on which the client may log in, now or with TLS."""
        listen = self.options.tls.listen
        can_upgrade = (
            listen in (TLSUse.TLS, TLSUse.TLS_FORCE)
            and not secure
            and self.stream.secure == "plaintext"
        )
        return Terms(
            self.options.own_capability,
            starttls=can_upgrade,
            login_disabled=self.options.login_disabled
            or (can_upgrade and listen is TLSUse.TLS_FORCE),
        )

    async def banner(self) -> str:
        """Return the host name to greet the client with."""
        if self.options.no_bind_banner or self.options.no_lookup or self.site.inetd_pid:
            return os.uname().nodename
        address = self.ends.destination
        return await self.site.resolver.name(address) or address

    def penalty(self, credentials: Credentials, failure: Failure) -> float:
        """Return the seconds to wait before a refusal: longer each time for who guesses."""
        if not failure.everyday:
            return PAUSE_SECONDS
        user = fsencode(credentials.user)
        delay = self.site.clients.failed(self.ends.source, user, credentials.password)
        return max(PAUSE_SECONDS, delay)

    def log_failure(self, attempt: Attempt, failure: Failure) -> None:
        """Log and count a login that failed, and log for the operator what lies behind it."""
        if failure.detail:
            write = self.site.log.debug if failure.everyday else self.site.log.error
            detail = printable(failure.detail[:DETAIL_SIZE])
            write(f"{self.ends}: {failure.status}: {detail}")
        self.site.tally.login_failed(failure)
        login = attempt.record(failure.secure, failure)
        self.site.log.info(auth_line(self.ends, login))


class Established(Splice):
    """A session after its login, of which there may be thousands: no more than it needs."""

    __slots__ = ("ends", "login", "on_end", "relog_timer", "site")

    def __init__(self, session: Session, server: Stream, login: Login) -> None:
        site = session.site
        super().__init__(
            site.loop,
            session.stream.hand_over(),
            server.hand_over(),
            site.options.timeout,
            site.tally.octets,
        )
        self.site = site
        self.ends = session.ends
        self.login = login
        self.on_end = session.on_end
        self.relog_timer: Timer | None = None
        site.splices.add(self)
        site.tally.logged_in(session.stream.tls_version(), server.tls_version())
        self.log_login()

    def log_login(self) -> None:
        """Log the Auth line, now and as often as the site wants it."""
        self.site.log.info(auth_line(self.ends, self.login))
        if seconds := self.site.options.connect_relog:
            self.relog_timer = self.loop.call_later(seconds, self.log_login)

    def note_idle(self) -> None:
        """Say that the session is closed for its idleness."""
        self.site.log.notice(f"{self.ends}: timeout after the login")
        self.send_last(self.site.options.service.protocol.idle_notice)

    def note_end(self) -> None:
        """Log that the session has ended, and what it has moved."""
        if self.relog_timer:
            self.loop.timers.cancel(self.relog_timer)
        self.site.splices.discard(self)
        self.site.tally.left()
        moved = (self.up.octets, self.down.octets)
        login = self.login
        self.site.log.info(close_line(self.ends, login.authorisation, login.user, moved))
        self.on_end(self.ends)
