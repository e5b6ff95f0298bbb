"""POP3: the dialogue with a client, and the one with a real server."""

from os import fsdecode

import pytest

from perdition.failure import (
    ConnectedToItself,
    ConnectFailed,
    Failure,
    LoginDisabled,
    NegotiationFailed,
    NoServer,
    Rejected,
    TLSNotPresent,
)
from perdition.protocol.dialogue import Accepted, Credentials, LineTooLong, StartTLSPolicy, Terms
from perdition.protocol.pop3 import POP3
from tests.unit.talk import Talk, drive

PROTOCOL = POP3()
PLAIN = Terms("UIDL.USER")
TLS_OFFERED = Terms("UIDL.USER", starttls=True)
OWN_GREETING = PROTOCOL.own_greeting("proxy.example")
JOE = Credentials("joe", b"secret")

PAIRS = [
    pytest.param(b"joe", b"secret", id="plain"),
    pytest.param(b"joe@example.com", b" two  blanks ", id="blanks in the password"),
    pytest.param(b"joe", b"", id="empty password"),
    pytest.param(b"j\xf6e", b"\xff\x80", id="8-bit"),
    pytest.param(b'"joe\\', b'\\"{3+}', id="quotes and backslashes"),
    pytest.param(b"joe", b"x" * 4000, id="long password"),
]


def client(heard: bytes, terms: Terms = PLAIN, secured: Terms = PLAIN) -> Talk[Credentials | None]:
    """What happens when a client says that."""
    return drive(PROTOCOL.client(terms, secured), heard)


def login(
    heard: bytes = b"",
    upgrade: StartTLSPolicy = StartTLSPolicy.NEVER,
    credentials: Credentials = JOE,
) -> Talk[Accepted]:
    """What happens when a real server says that."""
    return drive(PROTOCOL.login(credentials, OWN_GREETING, upgrade), heard)


class TestClient:
    @pytest.mark.parametrize(("user", "password"), PAIRS)
    def test_credentials_are_what_was_typed(self, user: bytes, password: bytes) -> None:
        talk = client(b"USER %b\r\nPASS %b\r\n" % (user, password))

        assert talk.outcome == Credentials(fsdecode(user), password)
        assert talk.answers == [b"+OK"]

    @pytest.mark.parametrize("heard", [b"user joe\r\npass secret\r\n", b"USER joe\nPASS secret\n"])
    def test_case_and_bare_line_feeds_do_not_matter(self, heard: bytes) -> None:
        assert client(heard).outcome == JOE

    def test_last_user_counts(self) -> None:
        assert client(b"USER ann\r\nUSER joe\r\nPASS secret\r\n").outcome == JOE

    def test_commands_behind_the_password_are_left_for_the_real_server(self) -> None:
        assert client(b"USER joe\r\nPASS secret\r\nSTAT\r\nQU").unread == b"STAT\r\nQU"

    @pytest.mark.parametrize(
        "mistake",
        [
            b"",
            b" ",
            b"USER",
            b"USER ",
            b"USER two words",
            b"USER jo\0e",
            b"PASS secret",
            b"PASS",
            b"NOOP",
            b"STAT",
            b"STLS",
            b"QUIT now",
            b"CAPA all",
            b"\xff\xfe\0",
        ],
    )
    def test_mistakes_are_refused_slowly_and_forgiven(self, mistake: bytes) -> None:
        talk = client(mistake + b"\r\n")
        assert (talk.answers, talk.pauses) == ([b"-ERR"], 1)

        assert talk.hear(b"USER joe\r\nPASS secret\r\n").outcome == JOE

    def test_password_without_its_blank_is_no_empty_password(self) -> None:
        talk = client(b"USER joe\r\nPASS\r\n")
        assert talk.answers == [b"+OK", b"-ERR"]
        assert talk.goes_on

    def test_auth_is_refused_at_once(self) -> None:
        talk = client(b"AUTH\r\nAUTH PLAIN\r\nAUTH PLAIN AGpvZQBzZWNyZXQ=\r\n")
        assert (talk.answers, talk.pauses) == ([b"-ERR"] * 3, 0)

    def test_quit_ends_the_session(self) -> None:
        talk = client(b"USER joe\r\nQUIT\r\n")
        assert (talk.answers, talk.outcome) == ([b"+OK", b"+OK"], None)

    @pytest.mark.parametrize("line", [b"USER " + b"x" * 4100, b"x" * 4100 + b"\r\n"])
    def test_line_too_long_ends_the_session_with_an_answer(self, line: bytes) -> None:
        talk = client(line)
        assert (talk.answers, talk.outcome) == ([b"-ERR"], None)

    @pytest.mark.parametrize(
        ("capability", "starttls", "listed"),
        [
            ("UIDL.USER", False, [b"UIDL", b"USER"]),
            ("UIDL.USER", True, [b"UIDL", b"USER", b"STLS"]),
            ("STLS.USER", True, [b"USER", b"STLS"]),
            ("STLS.USER", False, [b"USER"]),
            ("TOP  EXPIRE 60  USER", False, [b"TOP", b"EXPIRE 60", b"USER"]),
            ("EXPIRE 60.USER", False, [b"EXPIRE 60", b"USER"]),
            ("", False, []),
        ],
    )
    def test_capabilities(self, capability: str, starttls: bool, listed: list[bytes]) -> None:
        talk = client(b"CAPA\r\n", Terms(capability, starttls))
        assert talk.answers[0] == b"+OK"
        assert talk.lines[1:] == [*listed, b"."]

    def test_tls_begins_a_new_dialogue(self) -> None:
        talk = client(b"USER joe\r\nSTLS\r\n", TLS_OFFERED)
        assert (talk.answers, talk.upgrades) == ([b"+OK", b"+OK"], 1)

        talk.hear(b"PASS secret\r\nCAPA\r\nSTLS\r\n")
        assert talk.answers[2:] == [b"-ERR", b"+OK", b"UIDL", b"USER", b".", b"-ERR"]

    def test_plain_octets_behind_stls_are_not_used(self) -> None:
        talk = client(b"STLS\r\nUSER evil\r\n", TLS_OFFERED)
        assert talk.hear(b"USER joe\r\nPASS secret\r\n").outcome == JOE
        assert talk.answers == [b"+OK", b"+OK"]


class TestRealServer:
    def test_each_command_waits_for_its_answer(self) -> None:
        talk = login(b"+OK hi\r\n")
        assert talk.news() == b"USER joe\r\n"
        talk.hear(b"+OK\r\n")
        assert talk.news() == b"PASS secret\r\n"
        talk.hear(b"+OK 2 messages\r\n")
        assert talk.outcome == Accepted(b"+OK 2 messages")

    @pytest.mark.parametrize(("user", "password"), PAIRS)
    def test_exact_octets_are_sent(self, user: bytes, password: bytes) -> None:
        credentials = Credentials(fsdecode(user), password)
        talk = login(b"+OK\r\n+OK\r\n+OK\r\n", credentials=credentials)
        assert talk.said == b"USER %b\r\nPASS %b\r\n" % (user, password)

    @pytest.mark.parametrize("octet", [b"\r", b"\n", b"\0"])
    @pytest.mark.parametrize(("user", "password"), [(b"j%boe", b"pw"), (b"joe", b"p%bw")])
    def test_octets_that_break_commands_are_never_sent(
        self, user: bytes, password: bytes, octet: bytes
    ) -> None:
        user, password = (text.replace(b"%b", octet) for text in (user, password))
        talk = login(credentials=Credentials(fsdecode(user), password))
        with pytest.raises(Rejected):
            talk.hear(b"+OK hi\r\n+OK\r\n")
        assert talk.said == b""

    def test_what_comes_behind_the_ok_is_left_for_the_client(self) -> None:
        assert login(b"+OK\r\n+OK\r\n+OK in\r\n+OK early").unread == b"+OK early"

    def test_own_greeting_is_a_loop(self) -> None:
        talk = login()
        with pytest.raises(ConnectedToItself):
            talk.hear(PROTOCOL.greeting("proxy.example", PLAIN))
        assert talk.said == b""

    def test_greeting_of_another_perdition_is_no_loop(self) -> None:
        assert login(PROTOCOL.greeting("other.example", PLAIN)).said == b"USER joe\r\n"

    @pytest.mark.parametrize("greeting", [b"-ERR full", b"* OK IMAP4", b"", b"220 smtp", b"\xff"])
    def test_other_greetings_are_no_pop3(self, greeting: bytes) -> None:
        talk = login()
        with pytest.raises(NegotiationFailed):
            talk.hear(greeting + b"\r\n")
        assert talk.said == b""

    def test_endless_greeting_is_cut(self) -> None:
        with pytest.raises(LineTooLong):
            login(b"+OK " + b"x" * 70_000)

    @pytest.mark.parametrize(
        ("heard", "said"),
        [
            (b"-ERR no such user", b"USER joe\r\n"),
            (b"+OK\r\n-ERR [AUTH] wrong", b"USER joe\r\nPASS secret\r\n"),
            (b"garbage", b"USER joe\r\n"),
        ],
    )
    def test_refusal_is_kept_word_for_word(self, heard: bytes, said: bytes) -> None:
        talk = login(b"+OK hi\r\n")
        with pytest.raises(Rejected) as refused:
            talk.hear(heard + b"\r\n")
        assert refused.value.server_line == heard.rpartition(b"\r\n")[2]
        assert talk.said == said


CAPA_WITH_STLS = b"+OK\r\nUIDL\r\nstls\r\n.\r\n"
CAPA_WITHOUT = b"+OK\r\nUIDL\r\n.\r\n"
NO_CAPA = b"-ERR what?\r\n"


class TestUpgrade:
    def test_never_asks(self) -> None:
        assert login(b"+OK hi\r\n", StartTLSPolicy.NEVER).said == b"USER joe\r\n"

    @pytest.mark.parametrize("upgrade", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    def test_comes_before_the_user_name(self, upgrade: StartTLSPolicy) -> None:
        talk = login(b"+OK hi\r\n" + CAPA_WITH_STLS + b"+OK go\r\n", upgrade)
        assert talk.said == b"CAPA\r\nSTLS\r\nUSER joe\r\n"
        assert talk.upgrades == 1

    @pytest.mark.parametrize("capabilities", [CAPA_WITHOUT, NO_CAPA])
    def test_plain_login_where_it_is_only_wished_for(self, capabilities: bytes) -> None:
        talk = login(b"+OK hi\r\n" + capabilities, StartTLSPolicy.IF_OFFERED)
        assert (talk.said, talk.upgrades) == (b"CAPA\r\nUSER joe\r\n", 0)

    @pytest.mark.parametrize("capabilities", [CAPA_WITHOUT, NO_CAPA])
    def test_no_login_where_it_is_required(self, capabilities: bytes) -> None:
        talk = login(b"", StartTLSPolicy.REQUIRED)
        with pytest.raises(TLSNotPresent):
            talk.hear(b"+OK hi\r\n" + capabilities)
        assert talk.said == b"CAPA\r\n"

    @pytest.mark.parametrize("upgrade", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    def test_refused_offer_ends_the_login(self, upgrade: StartTLSPolicy) -> None:
        talk = login(b"", upgrade)
        with pytest.raises(NegotiationFailed):
            talk.hear(b"+OK hi\r\n" + CAPA_WITH_STLS + b"-ERR not now\r\n")
        assert talk.said == b"CAPA\r\nSTLS\r\n"

    def test_plain_octets_behind_the_offer_answer_nothing(self) -> None:
        talk = login(
            b"+OK hi\r\n" + CAPA_WITH_STLS + b"+OK go\r\n+OK a\r\n+OK b\r\n",
            StartTLSPolicy.REQUIRED,
        )
        assert talk.said.endswith(b"USER joe\r\n")
        assert talk.goes_on

    def test_endless_capabilities_are_cut(self) -> None:
        with pytest.raises(NegotiationFailed):
            login(b"+OK hi\r\n+OK\r\n" + b"X\r\n" * 10_000, StartTLSPolicy.IF_OFFERED)


class TestAnswers:
    def test_greeting_names_the_host(self) -> None:
        assert PROTOCOL.greeting("mx.example", PLAIN) == b"+OK POP3 Ready mx.example\r\n"

    @pytest.mark.parametrize(
        ("ok_line", "answer"), [("You are in", b"+OK You are in\r\n"), (None, b"+OK 2 new\r\n")]
    )
    def test_welcome(self, ok_line: str | None, answer: bytes) -> None:
        assert PROTOCOL.welcome(JOE, Accepted(b"+OK 2 new"), ok_line) == answer

    @pytest.mark.parametrize(
        ("failure", "answer"),
        [
            (Rejected(server_line=b"-ERR no"), b"-ERR [AUTH] Re-Authentication Failure\r\n"),
            (NoServer(), b"-ERR [AUTH] Re-Authentication Failure\r\n"),
            (LoginDisabled(), b"-ERR [SYS/TEMP] Login Disabled\r\n"),
            (ConnectFailed("h:110: gone"), b"-ERR [SYS/TEMP] Could not connect to server\r\n"),
            (ConnectedToItself(), b"-ERR [SYS/PERM] Re-Authentication Failure\r\n"),
            (TLSNotPresent(), b"-ERR TLS not present\r\n"),
        ],
    )
    def test_refusal_has_a_response_code(self, failure: Failure, answer: bytes) -> None:
        assert PROTOCOL.refusal(JOE, failure, verbatim=False) == answer

    @pytest.mark.parametrize(
        ("failure", "answer"),
        [
            (Rejected(server_line=b"-ERR [IN-USE] locked"), b"-ERR [IN-USE] locked\r\n"),
            (Rejected(), b"-ERR [AUTH] Re-Authentication Failure\r\n"),
        ],
    )
    def test_verbatim_refusal_is_the_servers_where_it_said_one(
        self, failure: Failure, answer: bytes
    ) -> None:
        assert PROTOCOL.refusal(JOE, failure, verbatim=True) == answer
