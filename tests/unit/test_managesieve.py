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
    TLSNotPresent,
)
from perdition.protocol.dialogue import Accepted, Credentials, LineTooLong, StartTLSPolicy, Terms
from perdition.protocol.managesieve import ManageSieve
from tests.unit.talk import Talk, drive

PROTOCOL = ManageSieve()
PLAIN = Terms('"IMPLEMENTATION" "x"  "SASL" "PLAIN"')
TLS_OFFERED = Terms('"IMPLEMENTATION" "x"', starttls=True)
OWN_GREETING = PROTOCOL.own_greeting("proxy.example")
JOE = Credentials("joe", b"secret")
MESSAGE = b64encode(b"\0joe\0secret")


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


def capabilities(*others: bytes) -> bytes:
    """What a real server tells it can do, and OK."""
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
    def test_every_way_to_send_a_message(self, authenticate: bytes) -> None:
        if b"%d" in authenticate:
            talk = client(authenticate % (len(MESSAGE), MESSAGE) + b"\r\n")
        else:
            talk = client(authenticate % MESSAGE + b"\r\n")

        assert talk.outcome == JOE
        assert talk.unread == b""

    def test_no_answer_but_a_challenge_before_the_outcome(self) -> None:
        assert client(b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE).said == b""
        assert client(b'AUTHENTICATE "PLAIN"\r\n').said == b'""\r\n'

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
        self, authorisation: bytes, user: bytes, password: bytes
    ) -> None:
        message = b64encode(b"\0".join((authorisation, user, password)))
        talk = client(b'AUTHENTICATE "PLAIN" {%d+}\r\n%b\r\n' % (len(message), message))
        assert talk.outcome == Credentials(fsdecode(user), password, fsdecode(authorisation))

    @pytest.mark.parametrize("blank", [b" ", b"\r\n"])
    def test_commands_behind_the_login_are_left_for_the_real_server(self, blank: bytes) -> None:
        talk = client(b'AUTHENTICATE "PLAIN"%b"%b"\r\nLISTSCRIPTS\r\nGET' % (blank, MESSAGE))
        assert talk.unread == b"LISTSCRIPTS\r\nGET"

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
    def test_mistakes_are_refused_slowly_and_forgiven(self, mistake: bytes) -> None:
        talk = client(mistake + b"\r\n")
        assert (talk.answers, talk.pauses) == ([b"NO"], 1)

        assert talk.hear(b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE).outcome == JOE

    @pytest.mark.parametrize("answer", [b'"*"', b'"!"', b'"%b" "x"' % MESSAGE, b"", b"NOOP"])
    def test_cancelled_or_bad_exchange_is_forgiven(self, answer: bytes) -> None:
        talk = client(b'AUTHENTICATE "PLAIN"\r\n' + answer + b"\r\n")
        assert talk.answers == [b'""', b"NO"]

        assert talk.hear(b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE).outcome == JOE

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
    def test_literals_of_refused_commands_are_no_commands(self, refused: bytes) -> None:
        assert client(refused + b"\r\nLOGOUT\r\n").answers[-2:] == [b"NO", b"OK"]

    @pytest.mark.parametrize(
        ("command", "answer"),
        [
            (b"NOOP", b'OK "done"\r\n'),
            (b"noop", b'OK "done"\r\n'),
            (b'NOOP "x\\"y"', b'OK (TAG "x\\"y") "done"\r\n'),
            (b'NOOP ""', b'OK (TAG "") "done"\r\n'),
            (b"NOOP {3+}\r\nx\r\n", b'OK (TAG {3}\r\nx\r\n) "done"\r\n'),
            (b"CAPABILITY", b'"IMPLEMENTATION" "x"\r\n"SASL" "PLAIN"\r\nOK "done"\r\n'),
        ],
    )
    def test_commands_before_the_login(self, command: bytes, answer: bytes) -> None:
        talk = client(command + b"\r\n")
        assert (talk.said, talk.pauses) == (answer, 0)

    def test_logout_ends_the_session(self) -> None:
        talk = client(b"LOGOUT\r\n")
        assert (talk.answers, talk.outcome) == ([b"OK"], None)

    @pytest.mark.parametrize(
        "endless", [b"x" * 5000, b'AUTHENTICATE "PLAIN" {99999+}\r\n', b"NOOP {99999}\r\n"]
    )
    def test_endless_input_ends_the_session_with_an_answer(self, endless: bytes) -> None:
        talk = client(endless)
        assert (talk.answers, talk.outcome) == ([b"BYE"], None)


class TestCapability:
    @pytest.mark.parametrize(
        ("terms", "announced"),
        [
            (PLAIN, [b'"IMPLEMENTATION" "x"', b'"SASL" "PLAIN"']),
            (TLS_OFFERED, [b'"IMPLEMENTATION" "x"', b'"STARTTLS"']),
            (Terms('"STARTTLS"  "SASL" ""', starttls=True), [b'"SASL" ""', b'"STARTTLS"']),
            (Terms('"SASL" "PLAIN"  "starttls"'), [b'"SASL" "PLAIN"']),
            (Terms(""), []),
        ],
    )
    def test_comes_and_goes_with_what_is_possible(
        self, terms: Terms, announced: list[bytes]
    ) -> None:
        talk = client(b"CAPABILITY\r\n", terms)
        assert talk.lines[:-1] == announced
        lines = PROTOCOL.greeting("mx.example", terms).splitlines()
        assert lines == [*announced, b'OK "ManageSieve Ready mx.example"']

    def test_is_told_unasked_after_tls(self) -> None:
        talk = client(b"STARTTLS\r\nLOGOUT\r\n", TLS_OFFERED)
        assert talk.upgrades == 1
        assert talk.answers == [b"OK", b'"IMPLEMENTATION"', b'"SASL"', b"OK"]

        assert talk.hear(b"STARTTLS\r\n").answers[-1] == b"NO"


class TestRealServer:
    def test_one_round_trip(self) -> None:
        talk = login(capabilities())
        assert talk.said == b'AUTHENTICATE "PLAIN" "%b"\r\n' % MESSAGE
        assert talk.hear(b'OK "in"\r\n').outcome == Accepted(b'OK "in"')

    def test_authorisation_and_exact_octets_are_sent(self) -> None:
        talk = login(capabilities(), credentials=Credentials("j\udcf6e", b"\xff ", "ann"))
        message = b64encode(b"ann\0j\xf6e\0\xff ")
        assert talk.said == b'AUTHENTICATE "PLAIN" "%b"\r\n' % message

    def test_long_message_goes_in_a_literal(self) -> None:
        talk = login(capabilities(), credentials=Credentials("joe", b"x" * 1000))
        message = b64encode(b"\0joe\0" + b"x" * 1000)
        assert talk.said == b'AUTHENTICATE "PLAIN" {%d+}\r\n%b\r\n' % (len(message), message)

    @pytest.mark.parametrize(
        "credentials",
        [
            Credentials("j\0oe", b"secret"),
            Credentials("j\r\noe", b"secret"),
            Credentials("joe", b"sec\0ret"),
            Credentials("joe", b"secret", "a\0nn"),
        ],
    )
    def test_octets_that_break_messages_are_never_sent(self, credentials: Credentials) -> None:
        talk = login(credentials=credentials)
        with pytest.raises(Rejected):
            talk.hear(capabilities())
        assert talk.said == b""

    @pytest.mark.parametrize(
        "sasl",
        [
            b'"SASL" "LOGIN plain"',
            b'"sasl" "DIGEST-MD5 PLAIN"',
            b'"SASL" {11+}\r\nLOGIN PLAIN',
            b"{4}\r\nSASL {5}\r\nPLAIN",
        ],
    )
    def test_plain_is_found_however_it_is_announced(self, sasl: bytes) -> None:
        talk = login(b'"SIEVE" "fileinto"\r\n"VERSION" "1.0"\r\n%b\r\nOK\r\n' % sasl)
        assert talk.answers == [b"AUTHENTICATE"]

    @pytest.mark.parametrize(
        "sasl", [b'"SASL" ""', b'"SASL"', b'"SASL" "PLAINEST"', b'"SIEVE" "PLAIN"']
    )
    def test_server_without_plain_gets_no_password(self, sasl: bytes) -> None:
        talk = login()
        with pytest.raises(MechanismUnavailable):
            talk.hear(sasl + b"\r\nOK\r\n")
        assert talk.said == b""

    def test_own_greeting_is_a_loop(self) -> None:
        talk = login()
        with pytest.raises(ConnectedToItself):
            talk.hear(PROTOCOL.greeting("proxy.example", PLAIN))
        assert talk.said == b""

    @pytest.mark.parametrize("host", ["other.example", "myproxy.example", "proxy.example.org"])
    def test_greeting_of_another_perdition_is_no_loop(self, host: str) -> None:
        assert login(PROTOCOL.greeting(host, PLAIN)).answers == [b"AUTHENTICATE"]

    @pytest.mark.parametrize("heard", [b'BYE "full"', b'NO "no"', b"garbage\r\nOK", b"\0\r\nOK"])
    def test_other_greetings_end_the_login(self, heard: bytes) -> None:
        talk = login()
        with pytest.raises(NegotiationFailed):
            talk.hear(heard + b"\r\n")
        assert talk.said == b""

    @pytest.mark.parametrize(
        "endless",
        [
            pytest.param(b'"X"\r\n' * 100_000, id="capabilities"),
            pytest.param(b"\r\n" * 100_000, id="empty lines"),
            pytest.param(b'"X" {99999}\r\n', id="literal"),
            pytest.param(b'"X"' + b" {9999}\r\n%b" % (b"x" * 9999) * 20, id="literals"),
        ],
    )
    def test_endless_capabilities_are_cut(self, endless: bytes) -> None:
        with pytest.raises(NegotiationFailed):
            login(endless)

    def test_endless_line_is_cut(self) -> None:
        with pytest.raises(LineTooLong):
            login(b'"SIEVE" "' + b"x" * 70_000)

    @pytest.mark.parametrize(
        "answer",
        [
            b'OK "in"',
            b"ok",
            b'OK (SASL "cnNwYXV0aD0=") "in"',
            b"OK (WARNINGS) {6}\r\nlo\r\nng",
        ],
    )
    def test_acceptance_is_kept_word_for_word(self, answer: bytes) -> None:
        talk = login(capabilities() + answer + b"\r\n" + b'"early"')
        assert talk.outcome == Accepted(answer)
        assert talk.unread == b'"early"'

    @pytest.mark.parametrize(
        "answer", [b'NO "wrong"', b"no", b"NO (QUOTA/MAXSIZE) {8}\r\nno\r\nroom"]
    )
    def test_refusal_is_kept_word_for_word(self, answer: bytes) -> None:
        with pytest.raises(Rejected) as refused:
            login(capabilities() + answer + b"\r\n")
        assert refused.value.server_line == answer

    def test_bye_ends_the_login(self) -> None:
        with pytest.raises(NegotiationFailed):
            login(capabilities() + b'BYE (TRYLATER) "later"\r\n')


STARTTLS = capabilities(b'"STARTTLS"')


class TestUpgrade:
    def test_never_asks(self) -> None:
        assert login(STARTTLS, StartTLSPolicy.NEVER).answers == [b"AUTHENTICATE"]

    @pytest.mark.parametrize("upgrade", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    def test_comes_before_the_login_and_capabilities_are_heard_anew(
        self, upgrade: StartTLSPolicy
    ) -> None:
        talk = login(b'"SASL" ""\r\n"starttls"\r\nOK\r\nOK "go"\r\n', upgrade)
        assert (talk.said, talk.upgrades) == (b"STARTTLS\r\n", 1)

        talk.hear(capabilities())
        assert talk.answers == [b"STARTTLS", b"AUTHENTICATE"]

    def test_capabilities_from_before_it_do_not_count(self) -> None:
        talk = login(STARTTLS + b"OK\r\n", StartTLSPolicy.REQUIRED)
        with pytest.raises(MechanismUnavailable):
            talk.hear(b'"SASL" "SCRAM-SHA-1"\r\nOK\r\n')

    def test_plain_login_where_it_is_only_wished_for(self) -> None:
        talk = login(capabilities(), StartTLSPolicy.IF_OFFERED)
        assert (talk.answers, talk.upgrades) == ([b"AUTHENTICATE"], 0)

    def test_no_login_where_it_is_required(self) -> None:
        talk = login(b"", StartTLSPolicy.REQUIRED)
        with pytest.raises(TLSNotPresent):
            talk.hear(capabilities())
        assert talk.said == b""

    @pytest.mark.parametrize("upgrade", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    @pytest.mark.parametrize("refusal", [b'NO "not now"', b'BYE "bye"'])
    def test_refused_offer_ends_the_login(self, upgrade: StartTLSPolicy, refusal: bytes) -> None:
        talk = login(b"", upgrade)
        with pytest.raises(NegotiationFailed):
            talk.hear(STARTTLS + refusal + b"\r\n")
        assert talk.said == b"STARTTLS\r\n"

    def test_plain_octets_behind_the_offer_are_not_used(self) -> None:
        talk = login(STARTTLS + b"OK\r\n" + capabilities(), StartTLSPolicy.REQUIRED)
        assert talk.said == b"STARTTLS\r\n"
        assert talk.goes_on


class TestAnswers:
    @pytest.mark.parametrize(
        ("ok_line", "answer"),
        [
            ("You are in", b'OK "You are in"\r\n'),
            ('say "hi"', b'OK "say \\"hi\\""\r\n'),
            (None, b'OK (SASL "x") "in"\r\n'),
        ],
    )
    def test_welcome(self, ok_line: str | None, answer: bytes) -> None:
        assert PROTOCOL.welcome(JOE, Accepted(b'OK (SASL "x") "in"'), ok_line) == answer

    @pytest.mark.parametrize(
        ("failure", "answer"),
        [
            (Rejected(server_line=b'NO "x"'), b'NO "Re-Authentication Failure"\r\n'),
            (NoServer(), b'NO "Re-Authentication Failure"\r\n'),
            (LoginDisabled(), b'NO "Login Disabled"\r\n'),
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
    def test_verbatim_refusal_is_the_servers_where_it_said_one(
        self, failure: Failure, answer: bytes
    ) -> None:
        assert PROTOCOL.refusal(JOE, failure, verbatim=True) == answer
