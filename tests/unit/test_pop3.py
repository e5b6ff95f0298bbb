"""POP3: the dialogue with a client, and the one with a real server."""

from os import fsdecode

import pytest

from perdition.failure import (
    ConnectedToItself,
    ConnectFailed,
    Failure,
    LoginDisabled,
    MechanismUnavailable,
    NegotiationFailed,
    NoServer,
    Rejected,
    ServerRefused,
    ServerTLSNotPresent,
    TLSNotPresent,
)
from perdition.protocol.dialogue import (
    Accepted,
    Credentials,
    LineTooLong,
    LoginOffer,
    StartTLSPolicy,
)
from perdition.protocol.pop3 import POP3
from tests.unit.scripted_dialogue import DialogueStarter, ProtocolUnderTest

PROTOCOL = POP3()
PLAIN = LoginOffer("UIDL.USER")
TLS_OFFERED = LoginOffer("UIDL.USER", starttls=True)
JOE = Credentials("joe", b"secret")

PAIRS = [
    pytest.param(b"joe", b"secret", id="plain"),
    pytest.param(b"joe@example.com", b" two  blanks ", id="blanks in the password"),
    pytest.param(b"joe", b"", id="empty password"),
    pytest.param(b"j\xf6e", b"\xff\x80", id="8-bit"),
    pytest.param(b'"joe\\', b'\\"{3+}', id="quotes and backslashes"),
    pytest.param(b"joe", b"x" * 4000, id="long password"),
]


@pytest.fixture
def pop3(start_dialogue: DialogueStarter) -> ProtocolUnderTest:
    return ProtocolUnderTest(start_dialogue, PROTOCOL, PLAIN, JOE)


class TestClient:
    @pytest.mark.parametrize(("user", "password"), PAIRS)
    def test_credentials_are_what_was_typed(
        self, pop3: ProtocolUnderTest, user: bytes, password: bytes
    ) -> None:
        dialogue = pop3.client(b"USER %b\r\nPASS %b\r\n" % (user, password))

        assert dialogue.outcome == Credentials(fsdecode(user), password)
        assert dialogue.answers == [b"+OK"]

    @pytest.mark.parametrize(
        "received", [b"user joe\r\npass secret\r\n", b"USER joe\nPASS secret\n"]
    )
    def test_case_and_bare_line_feeds_do_not_matter(
        self, pop3: ProtocolUnderTest, received: bytes
    ) -> None:
        assert pop3.client(received).outcome == JOE

    def test_trailing_blanks_belong_to_passwords_only(self, pop3: ProtocolUnderTest) -> None:
        dialogue = pop3.client(b"CAPA \r\nUSER joe  \r\nPASS secret \r\n")
        assert dialogue.outcome == Credentials("joe", b"secret ")
        assert pop3.client(b"STLS \r\n", TLS_OFFERED).upgrades == 1
        assert pop3.client(b"QUIT \r\n").outcome is None

    def test_last_user_is_logged_in(self, pop3: ProtocolUnderTest) -> None:
        assert pop3.client(b"USER ann\r\nUSER joe\r\nPASS secret\r\n").outcome == JOE

    def test_commands_after_the_password_are_left_for_the_real_server(
        self, pop3: ProtocolUnderTest
    ) -> None:
        assert pop3.client(b"USER joe\r\nPASS secret\r\nSTAT\r\nQU").unread == b"STAT\r\nQU"

    @pytest.mark.parametrize(
        "mistake",
        [
            b"",
            b" ",
            b"USER",
            b"USER ",
            b"USER two words",
            b"USER jo\0e",
            b"USER jo\te",
            b"USER joe\x7f",
            b"PASS se\rcret",
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
    def test_mistakes_are_refused_slowly_and_forgiven(
        self, pop3: ProtocolUnderTest, mistake: bytes
    ) -> None:
        dialogue = pop3.client(mistake + b"\r\n")
        assert (dialogue.answers, dialogue.pauses) == ([b"-ERR"], 1)

        assert dialogue.receive(b"USER joe\r\nPASS secret\r\n").outcome == JOE

    def test_pass_without_a_space_is_no_empty_password(self, pop3: ProtocolUnderTest) -> None:
        dialogue = pop3.client(b"USER joe\r\nPASS\r\n")
        assert dialogue.answers == [b"+OK", b"-ERR"]
        assert dialogue.waits_for_more

    def test_auth_is_refused_at_once(self, pop3: ProtocolUnderTest) -> None:
        dialogue = pop3.client(b"AUTH\r\nAUTH PLAIN\r\nAUTH PLAIN AGpvZQBzZWNyZXQ=\r\n")
        assert (dialogue.answers, dialogue.pauses) == ([b"-ERR"] * 3, 0)

    def test_quit_ends_the_session(self, pop3: ProtocolUnderTest) -> None:
        dialogue = pop3.client(b"USER joe\r\nQUIT\r\n")
        assert (dialogue.answers, dialogue.outcome) == ([b"+OK", b"+OK"], None)

    @pytest.mark.parametrize("line", [b"USER " + b"x" * 4100, b"x" * 4100 + b"\r\n"])
    def test_line_too_long_ends_the_session_with_an_answer(
        self, pop3: ProtocolUnderTest, line: bytes
    ) -> None:
        dialogue = pop3.client(line)
        assert (dialogue.answers, dialogue.outcome) == ([b"-ERR"], None)

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
    def test_capa_lists_the_capability_and_stls_if_it_is_offered(
        self, pop3: ProtocolUnderTest, capability: str, starttls: bool, listed: list[bytes]
    ) -> None:
        dialogue = pop3.client(b"CAPA\r\n", LoginOffer(capability, starttls))
        assert dialogue.answers[0] == b"+OK"
        assert dialogue.lines[1:] == [*listed, b"."]

    @pytest.mark.parametrize("capability", ["UIDL.USER", "UIDL  SASL PLAIN  USER"])
    def test_no_login_is_offered_while_it_is_disabled(
        self, pop3: ProtocolUnderTest, capability: str
    ) -> None:
        disabled = LoginOffer(capability, starttls=True, login_disabled=True)
        assert pop3.client(b"CAPA\r\n", disabled).lines[1:] == [b"UIDL", b"STLS", b"."]

    def test_no_password_is_requested_while_logins_are_disabled(
        self, pop3: ProtocolUnderTest
    ) -> None:
        dialogue = pop3.client(b"USER joe\r\n", LoginOffer("USER", login_disabled=True))
        assert (dialogue.sent, dialogue.outcome) == (b"", Credentials("joe", b""))

    def test_user_name_from_before_tls_is_forgotten(self, pop3: ProtocolUnderTest) -> None:
        dialogue = pop3.client(b"USER joe\r\nSTLS\r\n", TLS_OFFERED)
        assert (dialogue.answers, dialogue.upgrades) == ([b"+OK", b"+OK"], 1)

        dialogue.receive(b"PASS secret\r\nCAPA\r\nSTLS\r\n")
        assert dialogue.answers[2:] == [b"-ERR", b"+OK", b"UIDL", b"USER", b".", b"-ERR"]


CAPA_WITH_STLS = b"+OK\r\nUIDL\r\nstls\r\n.\r\n"
CAPA_WITHOUT = b"+OK\r\nUIDL\r\n.\r\n"
NO_CAPA = b"-ERR what?\r\n"


class TestRealServer:
    def test_each_command_waits_for_its_answer(self, pop3: ProtocolUnderTest) -> None:
        dialogue = pop3.login(b"+OK hi\r\n")
        assert dialogue.new_output() == b"USER joe\r\n"
        dialogue.receive(b"+OK\r\n")
        assert dialogue.new_output() == b"PASS secret\r\n"
        dialogue.receive(b"+OK 2 messages\r\n")
        assert dialogue.outcome == Accepted(b"+OK 2 messages")

    @pytest.mark.parametrize(("user", "password"), PAIRS)
    def test_user_and_password_are_sent_unchanged(
        self, pop3: ProtocolUnderTest, user: bytes, password: bytes
    ) -> None:
        credentials = Credentials(fsdecode(user), password)
        dialogue = pop3.login(b"+OK\r\n+OK\r\n+OK\r\n", credentials=credentials)
        assert dialogue.sent == b"USER %b\r\nPASS %b\r\n" % (user, password)

    @pytest.mark.parametrize("byte", [b"\r", b"\n", b"\0", b"\t", b"\x1b", b"\x7f"])
    @pytest.mark.parametrize(("user", "password"), [(b"j%boe", b"pw"), (b"joe", b"p%bw")])
    def test_bytes_that_break_commands_are_never_sent(
        self, pop3: ProtocolUnderTest, user: bytes, password: bytes, byte: bytes
    ) -> None:
        user, password = (text.replace(b"%b", byte) for text in (user, password))
        dialogue = pop3.login(credentials=Credentials(fsdecode(user), password))
        with pytest.raises(Rejected):
            dialogue.receive(b"+OK hi\r\n+OK\r\n")
        assert dialogue.sent == b""

    def test_bytes_after_the_ok_are_left_for_the_client(self, pop3: ProtocolUnderTest) -> None:
        assert pop3.login(b"+OK\r\n+OK\r\n+OK in\r\n+OK early").unread == b"+OK early"

    def test_own_greeting_is_a_loop(self, pop3: ProtocolUnderTest) -> None:
        dialogue = pop3.login()
        with pytest.raises(ConnectedToItself):
            dialogue.receive(PROTOCOL.greeting("proxy.example", PLAIN))
        assert dialogue.sent == b""

    def test_greeting_of_another_perdition_is_no_loop(self, pop3: ProtocolUnderTest) -> None:
        assert pop3.login(PROTOCOL.greeting("other.example", PLAIN)).sent == b"USER joe\r\n"

    @pytest.mark.parametrize("greeting", [b"* OK IMAP4", b"", b"220 smtp", b"\xff"])
    def test_unexpected_greeting_ends_the_login(
        self, pop3: ProtocolUnderTest, greeting: bytes
    ) -> None:
        dialogue = pop3.login()
        with pytest.raises(NegotiationFailed):
            dialogue.receive(greeting + b"\r\n")
        assert dialogue.sent == b""

    @pytest.mark.parametrize(
        ("greeting", "forwarded"),
        [
            (b"-ERR [SYS/PERM] closed", b"-ERR [SYS/PERM] closed\r\n"),
            (b"-ERR [LOGIN-DELAY] busy", b"-ERR [LOGIN-DELAY] busy\r\n"),
            (b"-ERR busy", b"-ERR [SYS/TEMP] busy\r\n"),
            (b"-ERR [AUTH] busy", b"-ERR [SYS/TEMP] busy\r\n"),
        ],
    )
    def test_refusal_in_the_greeting_is_forwarded_unless_another_server_accepts(
        self, pop3: ProtocolUnderTest, greeting: bytes, forwarded: bytes
    ) -> None:
        with pytest.raises(ServerRefused) as refused:
            pop3.login(greeting + b"\r\n")
        assert PROTOCOL.refusal(JOE, refused.value, verbatim=False) == forwarded
        assert refused.value.try_next_server
        assert not ServerRefused.try_next_server

    def test_endless_greeting_ends_the_login(self, pop3: ProtocolUnderTest) -> None:
        with pytest.raises(LineTooLong):
            pop3.login(b"+OK " + b"x" * 70_000)

    @pytest.mark.parametrize(
        ("capabilities", "failure"),
        [
            (b"+OK\r\nUIDL\r\nSTLS\r\n.\r\n", MechanismUnavailable),
            (b"+OK\r\nUSER\r\nSTLS\r\n.\r\n", Rejected),
            (b"+OK\r\nUIDL\r\n.\r\n", Rejected),
            (NO_CAPA, Rejected),
        ],
    )
    def test_server_that_requires_tls_is_not_the_users_fault(
        self, pop3: ProtocolUnderTest, capabilities: bytes, failure: type[Failure]
    ) -> None:
        dialogue = pop3.login(b"+OK hi\r\n-ERR [AUTH] no plaintext\r\n")
        with pytest.raises(failure):
            dialogue.receive(capabilities)
        assert dialogue.sent == b"USER joe\r\nCAPA\r\n"

    @pytest.mark.parametrize(
        "received", [CAPA_WITH_STLS + b"+OK go\r\n", NO_CAPA], ids=["tls", "no tls"]
    )
    def test_refused_user_is_not_followed_by_a_question_if_stls_was_possible(
        self, pop3: ProtocolUnderTest, received: bytes
    ) -> None:
        dialogue = pop3.login(b"+OK hi\r\n", StartTLSPolicy.IF_OFFERED).receive(received)
        with pytest.raises(Rejected):
            dialogue.receive(b"-ERR [AUTH] unknown user\r\n")
        assert dialogue.answers[-1] == b"USER"

    def test_wrong_password_is_wrong_without_further_questions(
        self, pop3: ProtocolUnderTest
    ) -> None:
        with pytest.raises(Rejected):
            pop3.login(b"+OK hi\r\n+OK\r\n-err [auth] wrong\r\n")

    @pytest.mark.parametrize(
        ("reply", "forwarded"),
        [
            (b"-ERR [SYS/TEMP] a\x1b[2J\rb\0", b"-ERR [SYS/TEMP] a [2J b "),
            ("-ERR [SYS/TEMP] später \x9b\x85".encode(), "-ERR [SYS/TEMP] später   ".encode()),
            (b"-ERR [SYS/TEMP] \x9b\xe4", b"-ERR [SYS/TEMP]  \xe4"),
            (
                b"-ERR [SYS/TEMP] " + b"\xe2\x82\xac" * 999,
                b"-ERR [SYS/TEMP] " + b"\xe2\x82\xac" * 164,
            ),
            (b"-ERR [SYS/TEMP] " + b"x" * 60_000, (b"-ERR [SYS/TEMP] " + b"x" * 1000)[:510]),
            (
                b"-ERR [SYS/TEMP] " + b"\xc3\xa4" * 1000,
                (b"-ERR [SYS/TEMP] " + b"\xc3\xa4" * 1000)[:510],
            ),
            (b"-ERR [SYS/TEMP " + b"x" * 1000 + b"] later", b"-ERR later"),
        ],
    )
    def test_forwarded_refusal_is_a_short_line_without_control_characters(
        self, pop3: ProtocolUnderTest, reply: bytes, forwarded: bytes
    ) -> None:
        with pytest.raises(ServerRefused) as refused:
            pop3.login(b"+OK\r\n+OK\r\n" + reply + b"\r\n")
        assert refused.value.server_line == forwarded

    @pytest.mark.parametrize("accepted", [b"", b"+OK\r\n"], ids=["user", "password"])
    @pytest.mark.parametrize(
        ("line", "failure"),
        [
            (b"-ERR wrong", Rejected),
            (b"-ERR", Rejected),
            (b"-ERR [IN-USE] locked", ServerRefused),
            (b"-ERR [LOGIN-DELAY 30] later", ServerRefused),
            (b"-ERR [SYS/TEMP] later", ServerRefused),
            (b"-ERR [SYS/PERM] never", ServerRefused),
        ],
    )
    def test_refusal_is_classified_by_its_code_and_kept_unchanged(
        self, pop3: ProtocolUnderTest, accepted: bytes, line: bytes, failure: type[Failure]
    ) -> None:
        dialogue = pop3.login(b"+OK hi\r\n")
        with pytest.raises(failure) as refused:
            dialogue.receive(accepted + line + b"\r\n")
        assert refused.value.server_line == line
        assert dialogue.answers == ([b"USER", b"PASS"] if accepted else [b"USER"])

    def test_unexpected_reply_ends_the_login(self, pop3: ProtocolUnderTest) -> None:
        with pytest.raises(NegotiationFailed):
            pop3.login(b"+OK hi\r\n+OK\r\ngarbage\r\n")


class TestUpgrade:
    def test_is_not_requested_if_upgrade_is_never(self, pop3: ProtocolUnderTest) -> None:
        assert pop3.login(b"+OK hi\r\n", StartTLSPolicy.NEVER).sent == b"USER joe\r\n"

    @pytest.mark.parametrize("start_tls", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    def test_precedes_the_user_name(
        self, pop3: ProtocolUnderTest, start_tls: StartTLSPolicy
    ) -> None:
        dialogue = pop3.login(b"+OK hi\r\n" + CAPA_WITH_STLS + b"+OK go\r\n", start_tls)
        assert dialogue.sent == b"CAPA\r\nSTLS\r\nUSER joe\r\n"
        assert dialogue.upgrades == 1

    @pytest.mark.parametrize("capabilities", [CAPA_WITHOUT, NO_CAPA])
    def test_login_goes_on_without_it_if_it_is_optional_and_not_offered(
        self, pop3: ProtocolUnderTest, capabilities: bytes
    ) -> None:
        dialogue = pop3.login(b"+OK hi\r\n" + capabilities, StartTLSPolicy.IF_OFFERED)
        assert (dialogue.sent, dialogue.upgrades) == (b"CAPA\r\nUSER joe\r\n", 0)

    @pytest.mark.parametrize("capabilities", [CAPA_WITHOUT, NO_CAPA])
    def test_login_ends_if_it_is_required_and_not_offered(
        self, pop3: ProtocolUnderTest, capabilities: bytes
    ) -> None:
        dialogue = pop3.login(b"", StartTLSPolicy.REQUIRED)
        with pytest.raises(ServerTLSNotPresent):
            dialogue.receive(b"+OK hi\r\n" + capabilities)
        assert dialogue.sent == b"CAPA\r\n"

    @pytest.mark.parametrize("start_tls", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    def test_refusal_ends_the_login(
        self, pop3: ProtocolUnderTest, start_tls: StartTLSPolicy
    ) -> None:
        dialogue = pop3.login(b"", start_tls)
        with pytest.raises(NegotiationFailed):
            dialogue.receive(b"+OK hi\r\n" + CAPA_WITH_STLS + b"-ERR not now\r\n")
        assert dialogue.sent == b"CAPA\r\nSTLS\r\n"

    def test_endless_capabilities_end_the_login(self, pop3: ProtocolUnderTest) -> None:
        with pytest.raises(NegotiationFailed):
            pop3.login(b"+OK hi\r\n+OK\r\n" + b"X\r\n" * 10_000, StartTLSPolicy.IF_OFFERED)


class TestAnswers:
    def test_greeting_names_the_host(self) -> None:
        assert PROTOCOL.greeting("mx.example", PLAIN) == b"+OK POP3 Ready mx.example\r\n"

    @pytest.mark.parametrize(
        ("ok_line", "answer"), [("You are in", b"+OK You are in\r\n"), (None, b"+OK 2 new\r\n")]
    )
    def test_welcome_is_the_ok_line_or_the_real_servers_answer(
        self, ok_line: str | None, answer: bytes
    ) -> None:
        assert PROTOCOL.welcome(JOE, Accepted(b"+OK 2 new"), ok_line) == answer

    @pytest.mark.parametrize(
        ("failure", "answer"),
        [
            (Rejected(server_line=b"-ERR no"), b"-ERR [AUTH] Re-Authentication Failure\r\n"),
            (NoServer(), b"-ERR [AUTH] Re-Authentication Failure\r\n"),
            (LoginDisabled(), b"-ERR [SYS/TEMP] Login Disabled\r\n"),
            (ConnectFailed("h:110: gone"), b"-ERR [SYS/TEMP] Could not connect to server\r\n"),
            (ConnectedToItself(), b"-ERR [SYS/PERM] Connection Loop\r\n"),
            (TLSNotPresent(), b"-ERR TLS not present\r\n"),
            (MechanismUnavailable(), b"-ERR [SYS/PERM] SASL mechanism unavailable\r\n"),
            (ServerTLSNotPresent(), b"-ERR [SYS/PERM] The mail server is not available\r\n"),
            (ServerRefused("", b"-ERR [IN-USE] locked"), b"-ERR [IN-USE] locked\r\n"),
            (Rejected(reply="Account closed"), b"-ERR [AUTH] Account closed\r\n"),
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
    def test_verbatim_refusal_is_the_real_servers_if_there_is_one(
        self, failure: Failure, answer: bytes
    ) -> None:
        assert PROTOCOL.refusal(JOE, failure, verbatim=True) == answer
