"""One session, from a client's connection to the splice that moves its bytes."""

import itertools
import os
import socket
from collections.abc import Callable
from os import fsencode

from perdition.dialogue_runner import PAUSE_SECONDS, DialogueRunner
from perdition.endpoint import ConnectionEnds, Security
from perdition.failure import Failure
from perdition.log import describe_error, printable
from perdition.login import LoginAttempt, rotated
from perdition.net.loop import Timer
from perdition.net.splice import Splice
from perdition.net.stream import Abandoned, DeadlineExceeded, PeerClosed, Stream
from perdition.net.transport import TLSHandshakeFailed
from perdition.options.values import TLSUse
from perdition.protocol.dialogue import Accepted, Credentials, Dialogue, LoginOffer
from perdition.protocol.refusals import repeats_password
from perdition.session_log import LoginRecord, auth_line, close_line, connect_line
from perdition.site import Site

MAX_DETAIL_LENGTH = 400
"""Maximum number of characters of a failure's detail that are logged."""


class Session:
    """A session until the client has logged in.

    ``on_end`` is called once, when the connection has been closed, before or after the login.
    """

    def __init__(
        self,
        site: Site,
        sock: socket.socket,
        ends: ConnectionEnds,
        on_end: Callable[[ConnectionEnds], None],
    ) -> None:
        self.site = site
        self.options = site.options
        self.protocol = site.options.service.protocol
        self.ends = ends
        self.on_end = on_end
        options = site.options
        self.stream = Stream(site.loop, sock, options.authenticate_timeout, options.login_deadline)
        tls = site.tls.listening
        self.runner = DialogueRunner(
            self.stream,
            "CLIENT",
            site.log,
            self.options.logs_connections,
            tls.wrap if tls else None,
        )
        self.server_turns = itertools.count(next(site.server_turns))

    async def run(self) -> None:
        """Serve the client until it has left or the session is established."""
        log = self.site.log
        log.info(connect_line(self.ends, self.site.inetd_pid))
        established = False
        try:
            established = await self.serve()
        except (PeerClosed, Abandoned):
            pass
        except DeadlineExceeded:
            seconds = self.options.login_deadline
            self.note_limit(f"login_deadline ({seconds} s) exceeded", "no login in time, closing")
        except TimeoutError:
            seconds = self.options.authenticate_timeout
            self.note_limit(f"authenticate_timeout ({seconds} s) exceeded", "idle for too long")
        except TLSHandshakeFailed as error:
            log.notice(f"{self.ends}: TLS handshake with client failed: {error}")
        except Exception as error:  # noqa: BLE001 - one session must not end others
            log.error(f"{self.ends}: internal error: {describe_error(error)}")
        finally:
            if not established:
                self.stream.close()
                log.info(close_line(self.ends, "", "", None))
                self.on_end(self.ends)

    async def serve(self) -> bool:
        """Greet the client and run login attempts; return whether the session is established."""
        hostname = await self.hostname()
        tls = self.site.tls.listening
        if tls and self.options.tls.listen is TLSUse.SSL:
            await self.stream.start_tls(tls.wrap, Security.SSL)
        await self.runner.send(self.protocol.greeting(hostname, self.login_offer()))
        own_greeting = self.protocol.own_greeting(hostname)
        attempts = itertools.count(1)
        while credentials := await self.runner.run(self.client_dialogue()):
            attempt = LoginAttempt(
                self.site,
                self.ends,
                credentials,
                self.stream.security,
                rotated(self.options.outgoing_server, self.server_turns),
                own_greeting,
                next(attempts),
            )
            try:
                with self.stream.guarded():
                    server, accepted = await attempt.log_in()
            except Failure as failure:
                self.log_failure(attempt, failure)
                await self.stream.pause(self.delay(credentials, failure))
                verbatim = self.options.answers_as_server
                await self.runner.send(self.protocol.refusal(credentials, failure, verbatim))
                if attempt.number == self.options.max_login_attempts:
                    limit = f"max_login_attempts ({attempt.number}) reached"
                    self.note_limit(limit, "too many failed logins, closing")
                    return False
            else:
                welcome = self.welcome(attempt, accepted)
                self.runner.log_traffic("SELF", welcome)
                established = EstablishedSession(self, server, attempt.record(server.security))
                established.start(welcome, self.stream.unread(), server.unread())
                return True
        return False

    def welcome(self, attempt: LoginAttempt, accepted: Accepted) -> bytes:
        """Return the reply to a successful login.

        It has no text of the real server that repeats the password, which may be the popmap's.
        """
        ok_line = None if self.options.answers_as_server else self.options.ok_line
        if ok_line is None or accepted.untagged or b"[ALERT]" in accepted.line.upper():
            text = accepted.untagged + accepted.line
            if repeats_password(text, attempt.credentials_for(attempt.route.name)):
                ok_line = self.options.ok_line
                accepted = Accepted(b"", capability=accepted.capability)
        return self.protocol.welcome(attempt.credentials, accepted, ok_line)

    def client_dialogue(self) -> Dialogue[Credentials | None]:
        """Return the protocol's dialogue with the client."""
        return self.protocol.client_dialogue(
            self.login_offer(), self.login_offer(after_starttls=True)
        )

    def login_offer(self, after_starttls: bool = False) -> LoginOffer:
        """Return what the client is offered before its login, now or once it has TLS.

        ``login_disabled`` is true where LoginAttempt refuses every login.
        """
        listen = self.options.tls.listen
        can_upgrade = (
            listen in (TLSUse.TLS, TLSUse.TLS_FORCE)
            and not after_starttls
            and self.stream.security is Security.PLAINTEXT
        )
        return LoginOffer(
            self.options.own_capability,
            starttls=can_upgrade,
            login_disabled=self.options.login_disabled
            or (can_upgrade and listen is TLSUse.TLS_FORCE),
        )

    async def hostname(self) -> str:
        """Return the host name for the greeting."""
        if self.options.no_bind_banner or self.options.no_lookup or self.site.inetd_pid:
            return os.uname().nodename
        address = self.ends.destination
        return await self.site.resolver.name(address) or address

    def delay(self, credentials: Credentials, failure: Failure) -> float:
        """Return the seconds to wait before the reply to a failed login; guesses increase them."""
        if not failure.user_error:
            return PAUSE_SECONDS
        user = fsencode(credentials.user)
        limits = self.site.client_limits
        return max(
            PAUSE_SECONDS, limits.record_failure(self.ends.source, user, credentials.password)
        )

    def note_limit(self, limit: str, reason: str) -> None:
        """Log the limit that ends the connection, and tell the client the reason."""
        self.site.log.notice(f"{self.ends}: {limit}")
        self.stream.send_last(self.protocol.closing_notice(reason))

    def log_failure(self, attempt: LoginAttempt, failure: Failure) -> None:
        """Log and count a failed login, with its detail for the operator."""
        log = self.site.log
        detail = printable(failure.detail[:MAX_DETAIL_LENGTH])
        if failure.server_line and detail:
            log.info(f"{self.ends}: {detail}")
        elif detail:
            write = log.debug if failure.user_error else log.error
            write(f"{self.ends}: {failure.status}: {detail}")
        self.site.counters.login_failed(failure)
        log.info(auth_line(self.ends, attempt.record(failure.server_security, failure)))


class EstablishedSession(Splice):
    """A session after its login. There may be thousands, so it keeps only what it needs."""

    __slots__ = ("ends", "login", "on_end", "relog_timer", "site")

    def __init__(self, session: Session, server: Stream, login: LoginRecord) -> None:
        site = session.site
        super().__init__(
            site.loop,
            session.stream.hand_over(),
            server.hand_over(),
            site.options.timeout,
            site.counters.transferred,
        )
        self.site = site
        self.ends = session.ends
        self.login = login
        self.on_end = session.on_end
        self.relog_timer: Timer | None = None
        site.splices.add(self)
        site.counters.logged_in(session.stream.tls_version(), server.tls_version())
        self.log_login()

    def log_login(self) -> None:
        """Log the Auth line, now and every ``connect_relog`` seconds."""
        self.site.log.info(auth_line(self.ends, self.login))
        if seconds := self.site.options.connect_relog:
            self.relog_timer = self.loop.call_later(seconds, self.log_login)

    def on_idle_timeout(self) -> None:
        """Log that the session has been idle for too long, and tell the client."""
        options = self.site.options
        self.site.log.notice(f"{self.ends}: idle timeout ({options.timeout} s) exceeded")
        protocol = options.service.protocol
        self.send_notice(protocol.closing_notice("idle for too long"), protocol.response_end)

    def on_shutdown(self) -> None:
        """Tell the client."""
        protocol = self.site.options.service.protocol
        notice = protocol.closing_notice("server is stopping", temporary=True)
        self.send_notice(notice, protocol.response_end)

    def on_closed(self) -> None:
        """Log the Close line, and release what the session has held."""
        if self.relog_timer:
            self.loop.timers.cancel(self.relog_timer)
            self.relog_timer = None  # its action refers to this session
        self.site.splices.discard(self)
        self.site.counters.logged_out()
        transferred = (self.up.transferred, self.down.transferred)
        login = self.login
        self.site.log.info(close_line(self.ends, login.authorisation, login.user, transferred))
        self.on_end(self.ends)
