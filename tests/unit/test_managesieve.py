"""ManageSieve: the dialogue with a client, and the one with a real server."""

from base64 import b64encode
from os import fsdecode

import pytest

from perdition.failure import (
    ConnectedToItself,
    ConnectFailed,
    Failure,
    LoginDisabled,
    MapUnavailable,
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
from perdition.protocol.managesieve import UNSOLICITED_SECONDS, ManageSieve
from tests.unit.scripted_dialogue import DialogueStarter, ProtocolUnderTest

PROTOCOL = ManageSieve()
PLAIN = LoginOffer('"IMPLEMENTATION" "x"  "SASL" "PLAIN"')
TLS_FIRST = LoginOffer('"SASL" "PLAIN"  "VERSION" "1.0"', starttls=True, login_disabled=True)
TLS_OFFERED = LoginOffer('"IMPLEMENTATION" "x"', starttls=True)
JOE = Credentials("joe", b"secret")
MESSAGE = b64encode(b"\0joe\0secret")


@pytest.fixture
def managesieve(start_dialogue: DialogueStarter) -> ProtocolUnderTest:
    return ProtocolUnderTest(start_dialogue, PROTOCOL, PLAIN, JOE)


def capabilities(*others: bytes) -> bytes:
    """A real server's capabilities, and OK."""
    lines = (b'"IMPLEMENTATION" "s"', b'"SASL" "PLAIN"', *others, b'OK "hi"')
    return b"".join(line + b"\r\n" for line in lines)


class TestClient:
    @pytest.mark.parametrize(
        "authenticate",
        [
            pytest.param(b'AUTHENTICATE "PLAIN" "%b"', id="initial"),
            pytest.param(b'authenticate "plain" "%b"', id="lower case"),
            pytest.param(b'AUTHENTICATE "PLAIN" {%d+}\r\n%b', id="initial literal"),
            pytest.param(b'AUTHENTICATE "PLAIN" {%d}\r\n%b', id="initial literal without plus"),
            pytest.param(b'AUTHENTICATE {5+}\r\nPLAIN "%b"', id="literal mechanism"),
            pytest.param(b'AUTHENTICATE "PLAIN"\r\n"%b"', id="answer"),
            pytest.param(b'AUTHENTICATE "PLAIN"\r\n{%d+}\r\n%b', id="answer literal"),
        ],
    )
    def test_message_may_be_sent_in_every_form(
        self, managesieve: ProtocolUnderTest, authenticate: bytes
    ) -> None:
        if b"%d" in authenticate:
            dialogue = managesieve.client(authenticate % (len(MESSAGE), MESSAGE) + b"\r\n")
        else:
            dialogue = managesieve.client(authenticate % MESSAGE + b"\r\n")

        assert dialogue.outcome == JOE
        assert dialogue.unread == b""

    def test_nothing_but_a_challenge_is_sent_before_the_outcome(
        self, managesieve: ProtocolUnderTest
    ) -> None:
        assert managesieve.client(b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE).sent == b""
        assert managesieve.client(b'AUTHENTICATE "PLAIN"\r\n').sent == b'""\r\n'

    @pytest.mark.parametrize(
        ("authorisation", "user", "password"),
        [
            pytest.param(b"", b"joe", b"", id="empty password"),
            pytest.param(b"ann", b"joe", b"secret", id="authorisation"),
            pytest.param(b"\xff", b"j\xf6e", b"\x80 \r\n", id="8-bit"),
            pytest.param(b"", b"joe", b"x" * 5000, id="long password"),
        ],
    )
    def test_credentials_are_what_was_typed(
        self, managesieve: ProtocolUnderTest, authorisation: bytes, user: bytes, password: bytes
    ) -> None:
        message = b64encode(b"\0".join((authorisation, user, password)))
        dialogue = managesieve.client(
            b'AUTHENTICATE "PLAIN" {%d+}\r\n%b\r\n' % (len(message), message)
        )
        assert dialogue.outcome == Credentials(fsdecode(user), password, fsdecode(authorisation))

    @pytest.mark.parametrize("separator", [b" ", b"\r\n"])
    def test_commands_after_the_login_are_left_for_the_real_server(
        self, managesieve: ProtocolUnderTest, separator: bytes
    ) -> None:
        dialogue = managesieve.client(
            b'AUTHENTICATE "PLAIN"%b"%b"\r\nLISTSCRIPTS\r\nGET' % (separator, MESSAGE)
        )
        assert dialogue.unread == b"LISTSCRIPTS\r\nGET"

    @pytest.mark.parametrize(
        "mistake",
        [
            b"",
            b"AUTHENTICATE",
            b"AUTHENTICATE PLAIN",
            b'AUTHENTICATE "LOGIN"',
            b'AUTHENTICATE "PLAIN" "!"',
            b'AUTHENTICATE "PLAIN" ""',
            b'AUTHENTICATE "PLAIN" "AGpvZQ=="',
            b'AUTHENTICATE "PLAIN" "AABzZWNyZXQ="',
            b'AUTHENTICATE "PLAIN" "%b" "more"' % MESSAGE,
            b'AUTHENTICATE  "PLAIN" "%b"' % MESSAGE,
            b'AUTHENTICATE "PLAIN" "%b"' % b64encode(b"\0joe\0" + b"x" * 1000),
            b'AUTHENTICATE "PLAIN" {12+}\r\n0123\x0067890ab',
            b"LISTSCRIPTS",
            b'HAVESPACE "x" 1',
            b'PUTSCRIPT "x" {5+}\r\nstop;',
            b"STARTTLS",
            b"LOGOUT now",
            b'CAPABILITY "x"',
            b"NOOP x",
        ],
    )
    def test_mistakes_are_refused_slowly_and_forgiven(
        self, managesieve: ProtocolUnderTest, mistake: bytes
    ) -> None:
        dialogue = managesieve.client(mistake + b"\r\n")
        assert (dialogue.answers, dialogue.pauses) == ([b"NO"], 1)

        assert dialogue.receive(b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE).outcome == JOE

    @pytest.mark.parametrize("answer", [b'"*"', b'"!"', b'"%b" "x"' % MESSAGE, b"", b"NOOP"])
    def test_cancelled_or_bad_exchange_is_forgiven(
        self, managesieve: ProtocolUnderTest, answer: bytes
    ) -> None:
        dialogue = managesieve.client(b'AUTHENTICATE "PLAIN"\r\n' + answer + b"\r\n")
        assert dialogue.answers == [b'""', b"NO"]

        assert dialogue.receive(b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE).outcome == JOE

    @pytest.mark.parametrize(
        "refused",
        [
            b'PUTSCRIPT "x" {4+}\r\nNOOP',
            b'PUTSCRIPT  "x" {4+}\r\nNOOP',
            b"PUTSCRIPT x {4+}\r\nNOOP",
            b'AUTHENTICATE  "PLAIN" {4+}\r\nNOOP',
            b'AUTHENTICATE "PLAIN"\r\n {4+}\r\nNOOP',
        ],
    )
    def test_literals_of_refused_commands_are_no_commands(
        self, managesieve: ProtocolUnderTest, refused: bytes
    ) -> None:
        assert managesieve.client(refused + b"\r\nLOGOUT\r\n").answers[-2:] == [b"NO", b"OK"]

    @pytest.mark.parametrize(
        ("command", "answer"),
        [
            (b"NOOP", b'OK "done"\r\n'),
            (b"noop", b'OK "done"\r\n'),
            (b"NOOP  ", b'OK "done"\r\n'),
            (b'NOOP "x" ', b'OK (TAG "x") "done"\r\n'),
            (b'NOOP "DOM\\joe"', b'OK (TAG "DOM\\\\joe") "done"\r\n'),
            (b'NOOP "x\\"y"', b'OK (TAG "x\\"y") "done"\r\n'),
            (b'NOOP ""', b'OK (TAG "") "done"\r\n'),
            (b"NOOP {3+}\r\nx\r\n", b'OK (TAG {3}\r\nx\r\n) "done"\r\n'),
            (b"CAPABILITY", b'"IMPLEMENTATION" "x"\r\n"SASL" "PLAIN"\r\nOK "done"\r\n'),
        ],
    )
    def test_commands_are_answered_before_the_login(
        self, managesieve: ProtocolUnderTest, command: bytes, answer: bytes
    ) -> None:
        dialogue = managesieve.client(command + b"\r\n")
        assert (dialogue.sent, dialogue.pauses) == (answer, 0)

    def test_no_password_is_requested_while_logins_are_disabled(
        self, managesieve: ProtocolUnderTest
    ) -> None:
        dialogue = managesieve.client(b'AUTHENTICATE "PLAIN"\r\n', TLS_FIRST)
        assert (dialogue.sent, dialogue.outcome) == (b"", Credentials("", b""))
        dialogue = managesieve.client(b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE, TLS_FIRST)
        assert dialogue.outcome == JOE

    def test_logout_ends_the_session(self, managesieve: ProtocolUnderTest) -> None:
        dialogue = managesieve.client(b"LOGOUT\r\n")
        assert (dialogue.answers, dialogue.outcome) == ([b"OK"], None)

    @pytest.mark.parametrize(
        "endless", [b"x" * 5000, b'AUTHENTICATE "PLAIN" {99999+}\r\n', b"NOOP {99999}\r\n"]
    )
    def test_endless_input_ends_the_session_with_an_answer(
        self, managesieve: ProtocolUnderTest, endless: bytes
    ) -> None:
        dialogue = managesieve.client(endless)
        assert (dialogue.answers, dialogue.outcome) == ([b"BYE"], None)


class TestCapability:
    @pytest.mark.parametrize(
        ("offer", "announced"),
        [
            (PLAIN, [b'"IMPLEMENTATION" "x"', b'"SASL" "PLAIN"']),
            (TLS_OFFERED, [b'"IMPLEMENTATION" "x"', b'"STARTTLS"']),
            (LoginOffer('"STARTTLS"  "SASL" ""', starttls=True), [b'"SASL" ""', b'"STARTTLS"']),
            (LoginOffer('"SASL" "PLAIN"  "starttls"'), [b'"SASL" "PLAIN"']),
            (LoginOffer(""), []),
            (TLS_FIRST, [b'"SASL" ""', b'"VERSION" "1.0"', b'"STARTTLS"']),
        ],
    )
    def test_lists_starttls_only_if_it_is_offered(
        self, managesieve: ProtocolUnderTest, offer: LoginOffer, announced: list[bytes]
    ) -> None:
        dialogue = managesieve.client(b"CAPABILITY\r\n", offer)
        assert dialogue.lines[:-1] == announced
        lines = PROTOCOL.greeting("mx.example", offer).splitlines()
        assert lines == [*announced, b'OK "ManageSieve Ready mx.example"']

    def test_is_sent_unasked_after_starttls(self, managesieve: ProtocolUnderTest) -> None:
        dialogue = managesieve.client(b"STARTTLS\r\nLOGOUT\r\n", TLS_OFFERED)
        assert dialogue.upgrades == 1
        assert dialogue.answers == [b"OK", b'"IMPLEMENTATION"', b'"SASL"', b"OK"]

        assert dialogue.receive(b"STARTTLS\r\n").answers[-1] == b"NO"


class TestRealServer:
    def test_login_takes_one_round_trip(self, managesieve: ProtocolUnderTest) -> None:
        dialogue = managesieve.login(capabilities())
        assert dialogue.sent == b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE
        assert dialogue.receive(b'OK "in"\r\n').outcome == Accepted(b'OK "in"')

    def test_authorisation_and_exact_bytes_are_sent(self, managesieve: ProtocolUnderTest) -> None:
        dialogue = managesieve.login(
            capabilities(), credentials=Credentials("j\udcf6e", b"\xff ", "ann")
        )
        message = b64encode(b"ann\0j\xf6e\0\xff ")
        assert dialogue.sent == b'AUTHENTICATE "PLAIN" "%b"\r\n' % message

    def test_long_message_goes_in_a_literal(self, managesieve: ProtocolUnderTest) -> None:
        dialogue = managesieve.login(capabilities(), credentials=Credentials("joe", b"x" * 1000))
        message = b64encode(b"\0joe\0" + b"x" * 1000)
        assert dialogue.sent == b'AUTHENTICATE "PLAIN" {%d+}\r\n%b\r\n' % (len(message), message)

    @pytest.mark.parametrize(
        "credentials",
        [
            Credentials("j\0oe", b"secret"),
            Credentials("j\r\noe", b"secret"),
            Credentials("joe", b"sec\0ret"),
            Credentials("joe", b"secret", "a\0nn"),
        ],
    )
    def test_bytes_that_break_messages_are_never_sent(
        self, managesieve: ProtocolUnderTest, credentials: Credentials
    ) -> None:
        dialogue = managesieve.login(credentials=credentials)
        with pytest.raises(Rejected):
            dialogue.receive(capabilities())
        assert dialogue.sent == b""

    @pytest.mark.parametrize(
        "sasl",
        [
            b'"SASL" "LOGIN plain"',
            b'"sasl" "DIGEST-MD5 PLAIN"',
            b'"SASL" {11+}\r\nLOGIN PLAIN',
            b"{4}\r\nSASL {5}\r\nPLAIN",
        ],
    )
    def test_plain_is_found_in_every_form_of_the_capability(
        self, managesieve: ProtocolUnderTest, sasl: bytes
    ) -> None:
        dialogue = managesieve.login(
            b'"SIEVE" "fileinto"\r\n"VERSION" "1.0"\r\n%b\r\nOK\r\n' % sasl
        )
        assert dialogue.answers == [b"AUTHENTICATE"]

    @pytest.mark.parametrize(
        "sasl", [b'"SASL" ""', b'"SASL"', b'"SASL" "PLAINEST"', b'"SIEVE" "PLAIN"']
    )
    def test_server_without_plain_gets_no_password(
        self, managesieve: ProtocolUnderTest, sasl: bytes
    ) -> None:
        dialogue = managesieve.login()
        with pytest.raises(MechanismUnavailable):
            dialogue.receive(sasl + b"\r\nOK\r\n")
        assert dialogue.sent == b""

    def test_own_greeting_is_a_loop(self, managesieve: ProtocolUnderTest) -> None:
        dialogue = managesieve.login()
        with pytest.raises(ConnectedToItself):
            dialogue.receive(PROTOCOL.greeting("proxy.example", PLAIN))
        assert dialogue.sent == b""

    @pytest.mark.parametrize("host", ["other.example", "myproxy.example", "proxy.example.org"])
    def test_greeting_of_another_perdition_is_no_loop(
        self, managesieve: ProtocolUnderTest, host: str
    ) -> None:
        assert managesieve.login(PROTOCOL.greeting(host, PLAIN)).answers == [b"AUTHENTICATE"]

    @pytest.mark.parametrize("received", [b"garbage\r\nOK", b"\0\r\nOK"])
    def test_unexpected_greeting_ends_the_login(
        self, managesieve: ProtocolUnderTest, received: bytes
    ) -> None:
        dialogue = managesieve.login()
        with pytest.raises(NegotiationFailed):
            dialogue.receive(received + b"\r\n")
        assert dialogue.sent == b""

    @pytest.mark.parametrize(
        "endless",
        [
            pytest.param(b'"X"\r\n' * 100_000, id="capabilities"),
            pytest.param(b"\r\n" * 100_000, id="empty lines"),
            pytest.param(b'"X" {99999}\r\n', id="literal"),
            pytest.param(b'"X"' + b" {9999}\r\n%b" % (b"x" * 9999) * 20, id="literals"),
        ],
    )
    def test_endless_capabilities_end_the_login(
        self, managesieve: ProtocolUnderTest, endless: bytes
    ) -> None:
        with pytest.raises(NegotiationFailed):
            managesieve.login(endless)

    @pytest.mark.parametrize(
        ("greeting", "forwarded"),
        [
            (b'BYE (TRYLATER) "busy"', b'NO (TRYLATER) "busy"\r\n'),
            (b'BYE "full"', b'NO (TRYLATER) "full"\r\n'),
            (b"NO {4}\r\nfull", b"NO (TRYLATER) {4}\r\nfull\r\n"),
            (b'"SIEVE" ""\r\nBYE', b"NO (TRYLATER)\r\n"),
        ],
    )
    def test_refusal_in_the_greeting_is_forwarded_unless_another_server_accepts(
        self, managesieve: ProtocolUnderTest, greeting: bytes, forwarded: bytes
    ) -> None:
        with pytest.raises(ServerRefused) as refused:
            managesieve.login(greeting + b"\r\n")
        assert PROTOCOL.refusal(JOE, refused.value, verbatim=False) == forwarded
        assert refused.value.try_next_server
        assert not ServerRefused.try_next_server

    def test_endless_line_ends_the_login(self, managesieve: ProtocolUnderTest) -> None:
        with pytest.raises(LineTooLong):
            managesieve.login(b'"SIEVE" "' + b"x" * 70_000)

    @pytest.mark.parametrize(
        "answer",
        [
            b'OK "in"',
            b"ok",
            b'OK (SASL "cnNwYXV0aD0=") "in"',
            b"OK (WARNINGS) {6}\r\nlo\r\nng",
            b'OK (TAG {3}\r\n"}) {2}\r\nin',
            b'OK (TAG "(" X) {2}\r\nin',
            b"OK see note {12}",
            b"OK (TAG) see {12}",
        ],
    )
    def test_acceptance_is_kept_unchanged(
        self, managesieve: ProtocolUnderTest, answer: bytes
    ) -> None:
        dialogue = managesieve.login(capabilities() + answer + b"\r\n" + b'"early"')
        assert dialogue.outcome == Accepted(answer)
        assert dialogue.unread == b'"early"'

    @pytest.mark.parametrize(
        ("answer", "failure"),
        [
            (b'NO "wrong"', Rejected),
            (b"no", Rejected),
            (b'NO (AUTHENTICATIONFAILED) "wrong"', Rejected),
            (b'NO (TRYLATER) "later"', ServerRefused),
            (b'BYE (TRYLATER) "later"', ServerRefused),
            (b'BYE (REFERRAL "sieve://other") "there"', ServerRefused),
            (b"BYE", ServerRefused),
        ],
    )
    def test_refusal_is_classified_by_its_code_and_kept_unchanged(
        self, managesieve: ProtocolUnderTest, answer: bytes, failure: type[Failure]
    ) -> None:
        with pytest.raises(failure) as refused:
            managesieve.login(capabilities() + answer + b"\r\n")
        assert refused.value.server_line == answer

    @pytest.mark.parametrize(
        ("answer", "forwarded"),
        [
            (b"NO (QUOTA/MAXSIZE) {4}\r\nroom", b"NO (QUOTA/MAXSIZE) {4}\r\nroom"),
            (b"NO (QUOTA/MAXSIZE) {8}\r\nno\r\nroom", b'NO (QUOTA/MAXSIZE) "no  room"'),
            (b'NO (TRYLATER) "a\x1b[2J\rb\\"c"', b'NO (TRYLATER) "a [2J b\\"c"'),
            (b'NO (TRYLATER "\x1b") "later"', b'NO "later"'),
            (b"NO (TRYLATER) \0later", b'NO (TRYLATER) " later"'),
            (b'NO (TRYLATER) "%b"' % (b"x" * 60000), b'NO (TRYLATER) "%b"' % (b"x" * 1000)),
            ('NO (TRYLATER) "später"'.encode(), 'NO (TRYLATER) "später"'.encode()),
        ],
    )
    def test_forwarded_refusal_is_a_short_line_without_control_characters(
        self, managesieve: ProtocolUnderTest, answer: bytes, forwarded: bytes
    ) -> None:
        with pytest.raises(ServerRefused) as refused:
            managesieve.login(capabilities() + answer + b"\r\n")
        assert refused.value.server_line == forwarded

    def test_reply_without_its_text_is_still_valid(self, managesieve: ProtocolUnderTest) -> None:
        with pytest.raises(ServerRefused) as refused:
            managesieve.login(capabilities() + b'NO (TRYLATER) "secret is busy"\r\n')
        assert refused.value.server_line == b'NO (TRYLATER) "***"'

    def test_server_that_requires_tls_is_not_the_users_fault(
        self, managesieve: ProtocolUnderTest
    ) -> None:
        with pytest.raises(MechanismUnavailable):
            managesieve.login(capabilities() + b'NO (ENCRYPT-NEEDED) "use TLS"\r\n')


STARTTLS = capabilities(b'"STARTTLS"')


class TestUpgrade:
    def test_is_not_requested_if_upgrade_is_never(self, managesieve: ProtocolUnderTest) -> None:
        assert managesieve.login(STARTTLS, StartTLSPolicy.NEVER).answers == [b"AUTHENTICATE"]

    @pytest.mark.parametrize("start_tls", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    def test_precedes_the_login_and_capabilities_are_read_again(
        self, managesieve: ProtocolUnderTest, start_tls: StartTLSPolicy
    ) -> None:
        dialogue = managesieve.login(b'"SASL" ""\r\n"starttls"\r\nOK\r\nOK "go"\r\n', start_tls)
        assert (dialogue.sent, dialogue.upgrades) == (b"STARTTLS\r\n", 1)

        dialogue.receive(capabilities())
        assert dialogue.answers == [b"STARTTLS", b"AUTHENTICATE"]

    def test_capabilities_are_requested_if_they_do_not_come(
        self, managesieve: ProtocolUnderTest
    ) -> None:
        dialogue = managesieve.login(STARTTLS + b"OK\r\n", StartTLSPolicy.REQUIRED)
        assert dialogue.answers == [b"STARTTLS"]
        assert dialogue.wait(UNSOLICITED_SECONDS).answers == [b"STARTTLS", b"CAPABILITY"]
        dialogue.receive(capabilities())
        assert dialogue.answers[2:] == [b"AUTHENTICATE"]
        assert dialogue.receive(b'OK "in"\r\n').outcome == Accepted(b'OK "in"')

    @pytest.mark.parametrize("late", [b"", capabilities(b'"STARTTLS"')])
    def test_capabilities_that_come_late_are_no_reply_to_the_login(
        self, managesieve: ProtocolUnderTest, late: bytes
    ) -> None:
        dialogue = managesieve.login(STARTTLS + b"OK\r\n", StartTLSPolicy.REQUIRED)
        dialogue.wait(UNSOLICITED_SECONDS).receive(capabilities() + late)
        with pytest.raises(Rejected):
            dialogue.receive(b"NO\r\n")

    def test_capabilities_from_before_it_are_ignored(self, managesieve: ProtocolUnderTest) -> None:
        dialogue = managesieve.login(STARTTLS + b"OK\r\n", StartTLSPolicy.REQUIRED)
        with pytest.raises(MechanismUnavailable):
            dialogue.receive(b'"SASL" "SCRAM-SHA-1"\r\nOK\r\n')

    def test_login_goes_on_without_it_if_it_is_optional_and_not_offered(
        self, managesieve: ProtocolUnderTest
    ) -> None:
        dialogue = managesieve.login(capabilities(), StartTLSPolicy.IF_OFFERED)
        assert (dialogue.answers, dialogue.upgrades) == ([b"AUTHENTICATE"], 0)

    def test_login_ends_if_it_is_required_and_not_offered(
        self, managesieve: ProtocolUnderTest
    ) -> None:
        dialogue = managesieve.login(b"", StartTLSPolicy.REQUIRED)
        with pytest.raises(ServerTLSNotPresent):
            dialogue.receive(capabilities())
        assert dialogue.sent == b""

    @pytest.mark.parametrize("start_tls", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    @pytest.mark.parametrize("refusal", [b'NO "not now"', b'BYE "bye"'])
    def test_refusal_ends_the_login(
        self, managesieve: ProtocolUnderTest, start_tls: StartTLSPolicy, refusal: bytes
    ) -> None:
        dialogue = managesieve.login(b"", start_tls)
        with pytest.raises(NegotiationFailed):
            dialogue.receive(STARTTLS + refusal + b"\r\n")
        assert dialogue.sent == b"STARTTLS\r\n"


class TestAnswers:
    @pytest.mark.parametrize(
        ("ok_line", "answer"),
        [
            ("You are in", b'OK "You are in"\r\n'),
            ('say "hi"', b'OK "say \\"hi\\""\r\n'),
            (None, b'OK (SASL "x") "in"\r\n'),
        ],
    )
    def test_welcome_is_the_ok_line_or_the_real_servers_answer(
        self, ok_line: str | None, answer: bytes
    ) -> None:
        assert PROTOCOL.welcome(JOE, Accepted(b'OK (SASL "x") "in"'), ok_line) == answer

    @pytest.mark.parametrize(
        ("failure", "answer"),
        [
            (Rejected(server_line=b'NO "x"'), b'NO "Re-Authentication Failure"\r\n'),
            (NoServer(), b'NO "Re-Authentication Failure"\r\n'),
            (LoginDisabled(), b'NO (TRYLATER) "Login Disabled"\r\n'),
            (TLSNotPresent(), b'NO (ENCRYPT-NEEDED) "TLS not present"\r\n'),
            (ServerTLSNotPresent(), b"NO (TRYLATER) "),
            (MechanismUnavailable(), b'NO (TRYLATER) "SASL mechanism unavailable"\r\n'),
            (ServerRefused("", b"NO (QUOTA) {3}\r\nx\r\n"), b"NO (QUOTA) {3}\r\nx\r\n\r\n"),
            (ServerRefused("", b'BYE (X "y") "z"'), b'NO (X "y") "z"\r\n'),
            (ServerRefused("", b'BYE "z"'), b'NO (TRYLATER) "z"\r\n'),
            (ServerRefused("", b"bye"), b"NO (TRYLATER)\r\n"),
            (Rejected(reply='Account "joe" closed'), b'NO "Account \\"joe\\" closed"\r\n'),
            (MapUnavailable("popmap /p: gone"), b"NO (TRYLATER) "),
            (ConnectFailed("h: gone"), b'NO (TRYLATER) "Could not connect to server"\r\n'),
        ],
    )
    def test_refusal_has_a_response_code(self, failure: Failure, answer: bytes) -> None:
        assert PROTOCOL.refusal(JOE, failure, verbatim=False).startswith(answer)

    @pytest.mark.parametrize(
        ("failure", "answer"),
        [
            (Rejected(server_line=b"NO {3}\r\nx\r\n"), b"NO {3}\r\nx\r\n\r\n"),
            (Rejected(), b'NO "Re-Authentication Failure"\r\n'),
        ],
    )
    def test_verbatim_refusal_is_the_real_servers_if_there_is_one(
        self, failure: Failure, answer: bytes
    ) -> None:
        assert PROTOCOL.refusal(JOE, failure, verbatim=True) == answer
