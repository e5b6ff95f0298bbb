"""IMAP4: the dialogue with a client, and the one with a real server."""

import re
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
from perdition.protocol.imap4 import IMAP4
from tests.unit.scripted_dialogue import DialogueStarter, ProtocolUnderTest

PROTOCOL = IMAP4()
PLAIN = LoginOffer("IMAP4 IMAP4REV1")
TLS_FIRST = LoginOffer("IMAP4 IMAP4REV1", starttls=True, login_disabled=True)
JOE = Credentials("joe", b"secret", tag=b"a")


@pytest.fixture
def imap4(start_dialogue: DialogueStarter) -> ProtocolUnderTest:
    return ProtocolUnderTest(start_dialogue, PROTOCOL, PLAIN, JOE)


def greeting(*capabilities: str) -> bytes:
    """A real server's greeting with capabilities."""
    return b"* OK [CAPABILITY %b] hi\r\n" % " ".join(("IMAP4rev1", *capabilities)).encode()


class TestClient:
    @pytest.mark.parametrize(
        ("arguments", "user", "password"),
        [
            pytest.param(b"joe secret", b"joe", b"secret", id="atoms"),
            pytest.param(b'"joe" "secret"', b"joe", b"secret", id="quoted"),
            pytest.param(b'joe "two  blanks "', b"joe", b"two  blanks ", id="blanks"),
            pytest.param(b'"j\\"o\\\\e" "\\\\\\""', b'j"o\\e', b'\\"', id="escapes"),
            pytest.param(b'joe ""', b"joe", b"", id="empty quoted password"),
            pytest.param(b"joe {0+}\r\n", b"joe", b"", id="empty literal password"),
            pytest.param(
                b"{3}\r\njoe {6}\r\nsecret", b"joe", b"secret", id="synchronizing literals"
            ),
            pytest.param(
                b"{3+}\r\njoe {6+}\r\nsecret", b"joe", b"secret", id="non-synchronizing literals"
            ),
            pytest.param(b"{3}\r\njoe {6+}\r\nsecret", b"joe", b"secret", id="both literals"),
            pytest.param(b"{3+}\r\njoe secret", b"joe", b"secret", id="literal, atom"),
            pytest.param(b'"joe" {6}\r\nsecret', b"joe", b"secret", id="quoted, literal"),
            pytest.param(
                b"{7+}\r\nj\r\no e\xff {2+}\r\n\r\n", b"j\r\no e\xff", b"\r\n", id="lines"
            ),
            pytest.param(b'{4+}\r\n"x\\" {4+}\r\n"y\\"', b'"x\\"', b'"y\\"', id="literal quotes"),
            pytest.param(b'"DOM\\joe" "\\p\\"\\\\"', b"DOM\\joe", b'\\p"\\', id="no escapes"),
            pytest.param(b"joe secret  ", b"joe", b"secret", id="trailing blanks, atoms"),
            pytest.param(b'joe "secret " ', b"joe", b"secret ", id="trailing blank, quoted"),
            pytest.param(b"joe {2+}\r\nx   ", b"joe", b"x ", id="trailing blanks, literal"),
            pytest.param(b"j\xf6e \xff\x80", b"j\xf6e", b"\xff\x80", id="8-bit atoms"),
            pytest.param(b'"j\xf6e" "\xff"', b"j\xf6e", b"\xff", id="8-bit quoted"),
            pytest.param(b'joe a(b){c}*%]\\"', b"joe", b'a(b){c}*%]\\"', id="special atoms"),
            pytest.param(b'joe "%b"' % (b"x" * 8000), b"joe", b"x" * 8000, id="long password"),
        ],
    )
    def test_credentials_are_what_was_typed(
        self, imap4: ProtocolUnderTest, arguments: bytes, user: bytes, password: bytes
    ) -> None:
        dialogue = imap4.client(b"a LOGIN %b\r\n" % arguments)

        assert dialogue.outcome == Credentials(fsdecode(user), password, tag=b"a")
        assert dialogue.unread == b""
        assert dialogue.answers == [b"+"] * len(re.findall(rb"\{\d+\}\r\n", arguments))

    @pytest.mark.parametrize("received", [b"a login joe secret\r\n", b"a LOGIN joe secret\n"])
    def test_case_and_bare_line_feeds_do_not_matter(
        self, imap4: ProtocolUnderTest, received: bytes
    ) -> None:
        assert imap4.client(received).outcome == JOE

    def test_each_literal_is_invited_when_its_turn_comes(self, imap4: ProtocolUnderTest) -> None:
        dialogue = imap4.client(b"a LOGIN {3}\r\n")
        assert dialogue.new_output().startswith(b"+ ")
        dialogue.receive(b"joe {6}\r\n")
        assert dialogue.new_output().startswith(b"+ ")
        dialogue.receive(b"secret\r\n")
        assert dialogue.outcome == JOE

    @pytest.mark.parametrize("password", [b"secret", b'"secret"', b"{6+}\r\nsecret"])
    def test_commands_after_the_login_are_left_for_the_real_server(
        self, imap4: ProtocolUnderTest, password: bytes
    ) -> None:
        dialogue = imap4.client(b"a LOGIN joe %b\r\nb SELECT INBOX\r\nc FE" % password)
        assert dialogue.outcome == JOE
        assert dialogue.unread == b"b SELECT INBOX\r\nc FE"

    @pytest.mark.parametrize(
        "mistake",
        [
            b"a",
            b"a LOGIN",
            b"a LOGIN joe",
            b"a LOGIN joe secret more",
            b"a LOGIN  joe secret",
            b'a LOGIN "" secret',
            b'a LOGIN "joe secret',
            b'a LOGIN "joe"secret',
            b'a LOGIN joe "x\\"',
            b"a LOGIN joe se\0cret",
            b'a LOGIN "j\0oe" secret',
            b"a LOGIN {4+}\r\nj\0oe secret",
            b"a LOGIN joe {7+}\r\nse\0cret",
            b"a LOGIN {99999}",
            b"a SELECT INBOX",
            b"a APPEND x {5+}\r\nhello",
            b"a STARTTLS",
            b"a CAPABILITY x",
            b"a NOOP x",
            b"a ID",
            b"a \xff\0",
        ],
    )
    def test_mistakes_are_refused_slowly_and_forgiven(
        self, imap4: ProtocolUnderTest, mistake: bytes
    ) -> None:
        dialogue = imap4.client(mistake + b"\r\n")
        assert [line.split()[:2] for line in dialogue.lines] == [[b"a", b"BAD"]]
        assert dialogue.pauses == 1

        assert dialogue.receive(b"a LOGIN joe secret\r\n").outcome == JOE

    @pytest.mark.parametrize("line", [b"", b" LOGIN joe x", b"+ NOOP", b"* NOOP", b"a\0b NOOP"])
    def test_line_without_a_tag_is_refused_untagged(
        self, imap4: ProtocolUnderTest, line: bytes
    ) -> None:
        dialogue = imap4.client(line + b"\r\n")
        assert [line.split()[:2] for line in dialogue.lines] == [[b"*", b"BAD"]]

    @pytest.mark.parametrize(
        "refused",
        [
            b"a SELECT {6+}\r\nx NOOP",
            b"a AUTHENTICATE PLAIN {6+}\r\nx NOOP",
            b"a LOGIN  joe {6+}\r\nx NOOP",
            b'a LOGIN "joe {6+}\r\nx NOOP',
            b'a LOGIN "" {6+}\r\nx NOOP',
            b"x\0y LOGIN joe {6+}\r\nx NOOP",
        ],
    )
    def test_literals_of_refused_commands_are_no_commands(
        self, imap4: ProtocolUnderTest, refused: bytes
    ) -> None:
        dialogue = imap4.client(refused + b"\r\nb NOOP\r\n")
        assert len(dialogue.lines) == 2, dialogue.sent
        assert dialogue.lines[-1].startswith(b"b OK")

    @pytest.mark.parametrize("command", [b"a AUTHENTICATE PLAIN", b"a AUTHENTICATE PLAIN AGpvZQBz"])
    def test_authenticate_is_refused_at_once(
        self, imap4: ProtocolUnderTest, command: bytes
    ) -> None:
        dialogue = imap4.client(command + b"\r\n")
        assert [line.split()[:2] for line in dialogue.lines] == [[b"a", b"NO"]]
        assert dialogue.pauses == 0

    @pytest.mark.parametrize(
        ("command", "answers"),
        [
            (b"a NOOP", [b"a OK"]),
            (b"a noop", [b"a OK"]),
            (b"a NOOP  ", [b"a OK"]),
            (b"a CAPABILITY ", [b"* CAPABILITY", b"a OK"]),
            (b"a LOGOUT ", [b"* BYE", b"a OK"]),
            (b"a CAPABILITY", [b"* CAPABILITY", b"a OK"]),
            (b"a ID NIL", [b"* ID", b"a OK"]),
            (b'a ID ("name" "mutt" "version" NIL)', [b"* ID", b"a OK"]),
            (b'a ID ({4+}\r\nname {4+}\r\n"m")', [b"* ID", b"a OK"]),
            (b"a LOGOUT", [b"* BYE", b"a OK"]),
        ],
    )
    def test_commands_are_answered_before_the_login(
        self, imap4: ProtocolUnderTest, command: bytes, answers: list[bytes]
    ) -> None:
        dialogue = imap4.client(command + b"\r\n")
        assert [b" ".join(line.split()[:2]) for line in dialogue.lines] == answers
        assert dialogue.pauses == 0

    @pytest.mark.parametrize(
        "pair",
        [
            pytest.param(b'"%b" "%b"' % (b"n" * 30, b"v" * 1024), id="quoted"),
            pytest.param(b'"%b" "%b"' % (b"n" * 30, b'\\"' * 1024), id="escaped"),
            pytest.param(b"{30+}\r\n%b {1024}\r\n%b" % (b"n" * 30, b"v" * 1024), id="literals"),
        ],
    )
    def test_id_may_have_all_pairs_of_its_specification(
        self, imap4: ProtocolUnderTest, pair: bytes
    ) -> None:
        dialogue = imap4.client(b"a ID (%b)\r\n" % b" ".join([pair] * 30))
        assert dialogue.lines[-1] == b"a OK done"

    def test_logout_ends_the_session(self, imap4: ProtocolUnderTest) -> None:
        assert imap4.client(b"a LOGOUT\r\n").outcome is None

    @pytest.mark.parametrize(
        "endless",
        [
            b"a LOGIN " + b"x" * 9000 + b"\r\n",
            b"a ID " + b"x" * 70_000,
            b"a LOGIN {99999+}\r\n",
            b"a LOGIN joe {17000+}\r\nx",
        ],
    )
    def test_endless_input_ends_the_session_with_an_answer(
        self, imap4: ProtocolUnderTest, endless: bytes
    ) -> None:
        dialogue = imap4.client(endless)
        assert dialogue.outcome is None
        assert dialogue.answers[-1] == b"*"
        assert dialogue.lines[-1].startswith(b"* BYE")

    def test_literal_too_long_is_not_invited(self, imap4: ProtocolUnderTest) -> None:
        assert b"+" not in imap4.client(b"a LOGIN {99999}\r\n").answers


class TestCapability:
    @pytest.mark.parametrize(
        ("offer", "announced"),
        [
            (LoginOffer("IMAP4 IMAP4REV1"), b"IMAP4 IMAP4REV1"),
            (LoginOffer("IMAP4REV1 LITERAL+"), b"IMAP4REV1 LITERAL+"),
            (LoginOffer("IMAP4", starttls=True), b"IMAP4 STARTTLS"),
            (LoginOffer("IMAP4 STARTTLS", starttls=True), b"IMAP4 STARTTLS"),
            (LoginOffer("IMAP4 STARTTLS ID"), b"IMAP4 ID"),
            (LoginOffer("STARTTLS IMAP4"), b"IMAP4"),
            (LoginOffer("IMAP4 X-STARTTLS"), b"IMAP4 X-STARTTLS"),
            (LoginOffer("IMAP4", login_disabled=True), b"IMAP4 LOGINDISABLED"),
            (LoginOffer("IMAP4 LOGINDISABLED", login_disabled=True), b"IMAP4 LOGINDISABLED"),
            (TLS_FIRST, b"IMAP4 IMAP4REV1 STARTTLS LOGINDISABLED"),
        ],
    )
    def test_lists_starttls_and_logindisabled_as_they_are_now(
        self, imap4: ProtocolUnderTest, offer: LoginOffer, announced: bytes
    ) -> None:
        dialogue = imap4.client(b"a CAPABILITY\r\n", offer)
        assert dialogue.lines[0] == b"* CAPABILITY " + announced
        assert PROTOCOL.greeting("mx.example", offer) == (
            b"* OK [CAPABILITY %b] IMAP4 Ready mx.example\r\n" % announced
        )

    def test_changes_after_starttls(self, imap4: ProtocolUnderTest) -> None:
        dialogue = imap4.client(b"a STARTTLS\r\nb LOGIN evil evil\r\n", TLS_FIRST)
        assert (dialogue.answers, dialogue.upgrades) == ([b"a"], 1)

        dialogue.receive(b"c CAPABILITY\r\nd STARTTLS\r\n")
        assert dialogue.lines[1] == b"* CAPABILITY IMAP4 IMAP4REV1"
        assert dialogue.lines[-1].startswith(b"d BAD")
        dialogue.receive(b"a LOGIN joe secret\r\n")
        assert dialogue.outcome == JOE._replace(asked_capability=True)


class TestRealServer:
    @pytest.mark.parametrize(
        ("capabilities", "user", "password", "sent"),
        [
            ((), b"joe", b"secret", b'perdition LOGIN "joe" "secret"\r\n'),
            ((), b'j"o\\e', b" ", b'perdition LOGIN "j\\"o\\\\e" " "\r\n'),
            ((), b"joe", b"", b'perdition LOGIN "joe" ""\r\n'),
            ((), b"j\xf6e", b"secret", b"perdition LOGIN {3}\r\n"),
            ((), b"joe", b"\xff", b"perdition LOGIN {3}\r\n"),
            ((), b"j\r\ne", b"x", b"perdition LOGIN {4}\r\n"),
            (("LITERAL+",), b"joe", b"secret", b'perdition LOGIN "joe" "secret"\r\n'),
            (("LITERAL+",), b"joe", b"\xff", b"perdition LOGIN {3+}\r\njoe {1+}\r\n\xff\r\n"),
            (("literal-",), b"j\ne", b"x", b"perdition LOGIN {3+}\r\nj\ne {1+}\r\nx\r\n"),
            (
                ("LITERAL+",),
                b"joe",
                b"x" * 5000,
                b"perdition LOGIN {3+}\r\njoe {5000+}\r\n%b\r\n" % (b"x" * 5000),
            ),
            (("LITERAL-",), b"joe", b"x" * 5000, b"perdition LOGIN {3+}\r\njoe {5000}\r\n"),
        ],
    )
    def test_login_takes_one_round_trip_if_the_server_allows_it(
        self,
        imap4: ProtocolUnderTest,
        capabilities: tuple[str, ...],
        user: bytes,
        password: bytes,
        sent: bytes,
    ) -> None:
        credentials = Credentials(fsdecode(user), password)
        assert imap4.login(greeting(*capabilities), credentials=credentials).sent == sent

    def test_literals_are_sent_when_invited(self, imap4: ProtocolUnderTest) -> None:
        dialogue = imap4.login(greeting(), credentials=Credentials(fsdecode(b"j\xf6e"), b"\r\n"))
        assert dialogue.new_output() == b"perdition LOGIN {3}\r\n"
        dialogue.receive(b"+ go on\r\n")
        assert dialogue.new_output() == b"j\xf6e {2}\r\n"
        dialogue.receive(b"+\r\n")
        assert dialogue.new_output() == b"\r\n\r\n"
        dialogue.receive(b"perdition OK [CAPABILITY IDLE] in\r\n")
        assert dialogue.outcome == Accepted(b"OK [CAPABILITY IDLE] in", b"", b"IDLE")

    @pytest.mark.parametrize(
        ("refusal", "failure"),
        [
            (b"NO locked", Rejected),
            (b"NO [ALERT] locked", ServerRefused),
            (b"BAD no literals", ServerRefused),
        ],
    )
    def test_refusal_instead_of_a_continuation_request_ends_the_login(
        self, imap4: ProtocolUnderTest, refusal: bytes, failure: type[Failure]
    ) -> None:
        dialogue = imap4.login(greeting(), credentials=Credentials("joe", b"pass\xff"))
        with pytest.raises(failure) as refused:
            dialogue.receive(b"* OK hi\r\nperdition %b\r\n" % refusal)
        assert refused.value.server_line == refusal
        assert refused.value.untagged == b"* OK hi\r\n"
        assert b"pass" not in dialogue.sent

    @pytest.mark.parametrize(("user", "password"), [("j\0oe", b"secret"), ("joe", b"se\0cret")])
    def test_nul_is_never_sent(self, imap4: ProtocolUnderTest, user: str, password: bytes) -> None:
        dialogue = imap4.login(credentials=Credentials(user, password))
        with pytest.raises(Rejected):
            dialogue.receive(greeting("LITERAL+"))
        assert dialogue.sent == b""

    @pytest.mark.parametrize("greeting", [b"* OK hi", b"* OK", b"* ok see {12}"])
    def test_capabilities_are_requested_if_the_greeting_has_none(
        self, imap4: ProtocolUnderTest, greeting: bytes
    ) -> None:
        dialogue = imap4.login(greeting + b"\r\n")
        assert dialogue.new_output() == b"perdition CAPABILITY\r\n"
        dialogue.receive(b"* capability IMAP4rev1 literal+\r\nperdition ok done\r\n")
        assert dialogue.new_output() == b'perdition LOGIN "joe" "secret"\r\n'

    @pytest.mark.parametrize("answer", [b"perdition BAD what?", b"perdition OK done"])
    def test_server_without_capabilities_gets_no_password(
        self, imap4: ProtocolUnderTest, answer: bytes
    ) -> None:
        dialogue = imap4.login(b"* OK hi\r\n")
        with pytest.raises(NegotiationFailed):
            dialogue.receive(answer + b"\r\n")
        assert b"secret" not in dialogue.sent

    @pytest.mark.parametrize(
        "received",
        [
            greeting("LOGINDISABLED"),
            b"* OK hi\r\n* CAPABILITY IMAP4rev1 LoginDisabled\r\nperdition OK done\r\n",
        ],
    )
    def test_logindisabled_gets_no_password(
        self, imap4: ProtocolUnderTest, received: bytes
    ) -> None:
        dialogue = imap4.login()
        with pytest.raises(MechanismUnavailable):
            dialogue.receive(received)
        assert b"LOGIN" not in dialogue.sent

    def test_own_greeting_is_a_loop(self, imap4: ProtocolUnderTest) -> None:
        dialogue = imap4.login()
        with pytest.raises(ConnectedToItself):
            dialogue.receive(PROTOCOL.greeting("proxy.example", TLS_FIRST))
        assert dialogue.sent == b""

    @pytest.mark.parametrize("host", ["other.example", "myproxy.example", "proxy.example.org"])
    def test_greeting_of_another_perdition_is_no_loop(
        self, imap4: ProtocolUnderTest, host: str
    ) -> None:
        assert b"LOGIN" in imap4.login(PROTOCOL.greeting(host, PLAIN)).sent

    @pytest.mark.parametrize(
        "line",
        [
            b"* OKAY",
            b"* PREAUTH [CAPABILITY IMAP4rev1] hi",
            b"+OK POP3",
            b"",
            b"a OK",
            b"\0",
        ],
    )
    def test_unexpected_greeting_ends_the_login(
        self, imap4: ProtocolUnderTest, line: bytes
    ) -> None:
        dialogue = imap4.login()
        with pytest.raises(NegotiationFailed):
            dialogue.receive(line + b"\r\n")
        assert dialogue.sent == b""

    @pytest.mark.parametrize(
        ("greeting", "forwarded"),
        [
            (b"* BYE [UNAVAILABLE] too many", b"a NO [UNAVAILABLE] too many\r\n"),
            (b"* BYE full", b"a NO [UNAVAILABLE] full\r\n"),
            (b"* NO [CAPABILITY IMAP4] full", b"a NO [UNAVAILABLE] full\r\n"),
            (b"* BYE [AUTHENTICATIONFAILED] \x1b", b"a NO [UNAVAILABLE]  \r\n"),
            (b"* BAD [LIMIT] many", b"a NO [LIMIT] many\r\n"),
        ],
    )
    def test_refusal_in_the_greeting_is_forwarded_unless_another_server_accepts(
        self, imap4: ProtocolUnderTest, greeting: bytes, forwarded: bytes
    ) -> None:
        with pytest.raises(ServerRefused) as refused:
            imap4.login(greeting + b"\r\n")
        assert PROTOCOL.refusal(JOE, refused.value, verbatim=False) == forwarded
        assert refused.value.try_next_server
        assert not ServerRefused.try_next_server

    def test_endless_greeting_ends_the_login(self, imap4: ProtocolUnderTest) -> None:
        with pytest.raises(LineTooLong):
            imap4.login(b"* OK " + b"x" * 70_000)

    @pytest.mark.parametrize(
        "untagged",
        [
            b"",
            b"* CAPABILITY IMAP4rev1 IDLE\r\n",
            b"* 1 EXISTS\r\n* OK [ALERT] backup at noon\r\n",
            b"* OK [ALERT] see note {12}\r\n* NO {3}\r\n",
            b"* X {4}\r\n\r\n* \r\n* 2 EXISTS\r\n",
            b"* X {3}\r\none {14}\r\n\r\nperdition NO)\r\n",
        ],
    )
    def test_untagged_answers_before_the_ok_are_passed_on(
        self, imap4: ProtocolUnderTest, untagged: bytes
    ) -> None:
        dialogue = imap4.login(
            greeting() + untagged + b"perdition OK [CAPABILITY IDLE] in\r\n* early\r\n"
        )
        assert dialogue.outcome == Accepted(b"OK [CAPABILITY IDLE] in", untagged, b"IDLE")
        assert dialogue.unread == b"* early\r\n"

    @pytest.mark.parametrize("untagged", [b"", b"* 1 EXISTS\r\n"])
    def test_capabilities_are_requested_if_the_ok_has_none(
        self, imap4: ProtocolUnderTest, untagged: bytes
    ) -> None:
        dialogue = imap4.login(greeting() + untagged + b"perdition OK in\r\n")
        assert dialogue.lines[1:] == [b"perdition CAPABILITY"]
        dialogue.receive(
            b"* OK [ALERT] hi\r\n* CAPABILITY IMAP4rev1 IDLE\r\nperdition OK\r\n* early"
        )
        assert dialogue.outcome == Accepted(
            b"OK in", untagged + b"* OK [ALERT] hi\r\n", b"IMAP4rev1 IDLE"
        )
        assert dialogue.unread == b"* early"

    def test_untagged_capabilities_before_the_ok_need_no_request(
        self, imap4: ProtocolUnderTest
    ) -> None:
        dialogue = imap4.login(greeting() + b"* CAPABILITY IDLE\r\nperdition OK in\r\n")
        assert dialogue.outcome == Accepted(b"OK in", b"* CAPABILITY IDLE\r\n", b"IDLE")

    def test_server_that_refuses_the_request_has_no_capabilities(
        self, imap4: ProtocolUnderTest
    ) -> None:
        dialogue = imap4.login(greeting() + b"perdition OK in\r\nperdition BAD what?\r\n")
        assert dialogue.outcome == Accepted(b"OK in")

    def test_bye_after_the_login_ends_it(self, imap4: ProtocolUnderTest) -> None:
        with pytest.raises(NegotiationFailed):
            imap4.login(greeting() + b"perdition OK in\r\n* BYE secret\r\n")

    @pytest.mark.parametrize(
        ("reply", "forwarded"),
        [
            (b"NO [UNAVAILABLE] a\x1b[2J\rb\0", b"NO [UNAVAILABLE] a [2J b "),
            ("NO [UNAVAILABLE] später \x9b\x85".encode(), "NO [UNAVAILABLE] später   ".encode()),
            (b"NO [UNAVAILABLE] \x9b\xe4", b"NO [UNAVAILABLE]  \xe4"),
            (
                b"NO [UNAVAILABLE] " + b"\xe2\x82\xac" * 999,
                b"NO [UNAVAILABLE] " + b"\xe2\x82\xac" * 327,
            ),
            (b"NO [UNAVAILABLE] " + b"x" * 60_000, (b"NO [UNAVAILABLE] " + b"x" * 1000)[:1000]),
            (
                b"NO [UNAVAILABLE] " + b"\xc3\xa4" * 1000,
                (b"NO [UNAVAILABLE] " + b"\xc3\xa4" * 1000)[:999],
            ),
            (b"NO [UNAVAILABLE " + b"x" * 1000 + b"] later", b"NO later"),
        ],
    )
    def test_forwarded_refusal_is_a_short_line_without_control_characters(
        self, imap4: ProtocolUnderTest, reply: bytes, forwarded: bytes
    ) -> None:
        with pytest.raises(ServerRefused) as refused:
            imap4.login(greeting() + b"perdition %b\r\n" % reply)
        assert refused.value.server_line == forwarded

    @pytest.mark.parametrize(
        ("line", "failure"),
        [
            (b"NO wrong", Rejected),
            (b"NO", Rejected),
            (b"no [authenticationfailed] wrong", Rejected),
            (b"NO [CAPABILITY IMAP4rev1] wrong", Rejected),
            (b"NO [UNAVAILABLE] later", ServerRefused),
            (b"NO [REFERRAL imap://other/] there", ServerRefused),
            (b"BAD syntax", ServerRefused),
        ],
    )
    def test_refusal_is_classified_by_its_code_and_kept_unchanged(
        self, imap4: ProtocolUnderTest, line: bytes, failure: type[Failure]
    ) -> None:
        with pytest.raises(failure) as refused:
            imap4.login(greeting() + b"* NO sorry\r\nperdition %b\r\n" % line)
        assert refused.value.server_line == line
        assert refused.value.untagged == b"* NO sorry\r\n"

    @pytest.mark.parametrize(
        ("line", "failure"),
        [
            (b"NO [AUTHENTICATIONFAILED] wrong", Rejected),
            (b"BYE [UNAVAILABLE] busy", ServerRefused),
            (b"BYE", ServerRefused),
        ],
    )
    def test_untagged_refusal_does_not_wait_for_a_tagged_one(
        self, imap4: ProtocolUnderTest, line: bytes, failure: type[Failure]
    ) -> None:
        with pytest.raises(failure) as refused:
            imap4.login(greeting() + b"* OK hi\r\n* %b\r\n" % line)
        assert refused.value.server_line == line
        assert refused.value.untagged == b"* OK hi\r\n"

    def test_untagged_refusal_after_the_ok_does_not_end_the_next_response(
        self, imap4: ProtocolUnderTest
    ) -> None:
        dialogue = imap4.login(greeting() + b"perdition OK in\r\n")
        dialogue.receive(b"* NO [AUTHENTICATIONFAILED] old\r\n")
        dialogue.receive(b"* CAPABILITY IMAP4 IDLE\r\nperdition OK\r\n* early")
        assert dialogue.outcome.capability == b"IMAP4 IDLE"
        assert dialogue.unread == b"* early"

    @pytest.mark.parametrize(
        ("untagged", "forwarded"),
        [
            (b"* CAPABILITY IMAP4 LOGINDISABLED", b""),
            (b"* OK [CAPABILITY IMAP4 LOGINDISABLED] hi", b""),
            (b"* PREAUTH welcome", b""),
            (b"* 1 EXISTS", b""),
            (b"* FLAGS {3}\r\na\r\n", b""),
            (b"* OK \x1b[2J", b"* OK  [2J\r\n"),
            (b"* no [ALERT] maintenance", b"* no [ALERT] maintenance\r\n"),
            (b"* BAD " + b"x" * 2000, b"* BAD " + b"x" * 994 + b"\r\n"),
        ],
    )
    def test_only_status_responses_of_a_refused_login_are_forwarded(
        self, imap4: ProtocolUnderTest, untagged: bytes, forwarded: bytes
    ) -> None:
        with pytest.raises(ServerRefused) as refused:
            imap4.login(greeting() + untagged + b"\r\nperdition NO [UNAVAILABLE] later\r\n")
        assert refused.value.untagged == forwarded

    def test_server_that_requires_tls_is_not_the_users_fault(
        self, imap4: ProtocolUnderTest
    ) -> None:
        with pytest.raises(MechanismUnavailable):
            imap4.login(greeting() + b"perdition NO [PRIVACYREQUIRED] use TLS\r\n")

    @pytest.mark.parametrize("line", [b"other OK in", b"OK in", b"+ more", b"perdition garbage"])
    def test_unexpected_answer_ends_the_login(self, imap4: ProtocolUnderTest, line: bytes) -> None:
        with pytest.raises(NegotiationFailed):
            imap4.login(greeting() + line + b"\r\n")

    @pytest.mark.parametrize(
        "endless",
        [
            pytest.param(b"* 1 EXISTS\r\n" * 10_000, id="answers"),
            pytest.param(b"* X {99999}\r\n", id="literal"),
            pytest.param(b"* X" + b" {9999}\r\n%b" % (b"x" * 9999) * 20, id="literals"),
        ],
    )
    @pytest.mark.parametrize("password", [b"secret", b"\xff"])
    def test_endless_answers_end_the_login(
        self, imap4: ProtocolUnderTest, endless: bytes, password: bytes
    ) -> None:
        dialogue = imap4.login(greeting(), credentials=Credentials("joe", password))
        with pytest.raises(NegotiationFailed):
            dialogue.receive(endless)


class TestUpgrade:
    def test_is_not_requested_if_upgrade_is_never(self, imap4: ProtocolUnderTest) -> None:
        assert imap4.login(greeting("STARTTLS"), StartTLSPolicy.NEVER).sent.startswith(
            b"perdition LOGIN"
        )

    @pytest.mark.parametrize("start_tls", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    def test_precedes_the_login_and_capabilities_are_requested_again(
        self, imap4: ProtocolUnderTest, start_tls: StartTLSPolicy
    ) -> None:
        dialogue = imap4.login(
            greeting("STARTTLS", "LOGINDISABLED") + b"perdition OK go\r\n", start_tls
        )
        assert dialogue.upgrades == 1
        assert dialogue.lines == [b"perdition STARTTLS", b"perdition CAPABILITY"]

        dialogue.receive(b"* CAPABILITY IMAP4rev1\r\nperdition OK done\r\n")
        assert dialogue.lines[2:] == [b'perdition LOGIN "joe" "secret"']

    def test_capabilities_from_before_it_are_ignored(self, imap4: ProtocolUnderTest) -> None:
        dialogue = imap4.login(
            greeting("STARTTLS", "LITERAL+") + b"perdition OK go\r\n", StartTLSPolicy.REQUIRED
        )
        with pytest.raises(MechanismUnavailable):
            dialogue.receive(b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nperdition OK done\r\n")

    def test_login_goes_on_without_it_if_it_is_optional_and_not_offered(
        self, imap4: ProtocolUnderTest
    ) -> None:
        dialogue = imap4.login(greeting(), StartTLSPolicy.IF_OFFERED)
        assert (dialogue.answers, dialogue.upgrades) == ([b"perdition"], 0)
        assert b"LOGIN" in dialogue.sent

    def test_login_ends_if_it_is_required_and_not_offered(self, imap4: ProtocolUnderTest) -> None:
        dialogue = imap4.login(b"", StartTLSPolicy.REQUIRED)
        with pytest.raises(ServerTLSNotPresent):
            dialogue.receive(greeting())
        assert dialogue.sent == b""

    @pytest.mark.parametrize("start_tls", [StartTLSPolicy.IF_OFFERED, StartTLSPolicy.REQUIRED])
    @pytest.mark.parametrize("refusal", [b"NO not now", b"BAD what?"])
    def test_refusal_ends_the_login(
        self, imap4: ProtocolUnderTest, start_tls: StartTLSPolicy, refusal: bytes
    ) -> None:
        dialogue = imap4.login(b"", start_tls)
        with pytest.raises(NegotiationFailed):
            dialogue.receive(greeting("STARTTLS") + b"perdition %b\r\n" % refusal)
        assert dialogue.lines == [b"perdition STARTTLS"]


CODE = Accepted(b"OK [CAPABILITY IDLE] in", b"", b"IDLE")
REQUESTED = Accepted(b"OK in", b"", b"IDLE")
UNTAGGED = Accepted(b"OK in", b"* CAPABILITY IDLE\r\n", b"IDLE")


class TestAnswers:
    @pytest.mark.parametrize(
        ("accepted", "ok_line", "answer"),
        [
            (Accepted(b"OK in"), "You are in", b"a OK You are in\r\n"),
            (CODE, "Yes", b"a OK [CAPABILITY IDLE] Yes\r\n"),
            (Accepted(b"OK [READ-ONLY] in"), "Yes", b"a OK Yes\r\n"),
            (CODE, None, b"a OK [CAPABILITY IDLE] in\r\n"),
            (REQUESTED, "Yes", b"a OK [CAPABILITY IDLE] Yes\r\n"),
            (REQUESTED, None, b"* CAPABILITY IDLE\r\na OK in\r\n"),
            (Accepted(b"OK [ALERT] full"), "Yes", b"* OK [ALERT] full\r\na OK Yes\r\n"),
            (Accepted(b"OK [ALERT] full"), None, b"a OK [ALERT] full\r\n"),
            (Accepted(b"OK in", b"* 1 EXISTS\r\n"), "Yes", b"* 1 EXISTS\r\na OK Yes\r\n"),
            (Accepted(b"OK in", b"* 1 EXISTS\r\n"), None, b"* 1 EXISTS\r\na OK in\r\n"),
        ],
    )
    def test_welcome_has_the_real_servers_capabilities(
        self, accepted: Accepted, ok_line: str | None, answer: bytes
    ) -> None:
        assert PROTOCOL.welcome(JOE, accepted, ok_line) == answer

    @pytest.mark.parametrize(
        ("accepted", "answer"),
        [
            (Accepted(b"OK in"), b"a OK Yes\r\n"),
            (CODE, b"a OK [CAPABILITY IDLE] Yes\r\n"),
            (REQUESTED, b"* CAPABILITY IDLE\r\na OK [CAPABILITY IDLE] Yes\r\n"),
            (UNTAGGED, b"* CAPABILITY IDLE\r\na OK [CAPABILITY IDLE] Yes\r\n"),
        ],
    )
    def test_welcome_has_requested_capabilities_untagged_if_the_client_asked(
        self, imap4: ProtocolUnderTest, accepted: Accepted, answer: bytes
    ) -> None:
        credentials = imap4.client(b"c CAPABILITY\r\na LOGIN joe secret\r\n").outcome
        assert credentials
        assert PROTOCOL.welcome(credentials, accepted, "Yes") == answer

    @pytest.mark.parametrize(
        ("failure", "answer"),
        [
            (Rejected(), b"a NO [AUTHENTICATIONFAILED] Re-Authentication Failure\r\n"),
            (NoServer(), b"a NO [AUTHENTICATIONFAILED] Re-Authentication Failure\r\n"),
            (LoginDisabled(), b"a NO [UNAVAILABLE] Login Disabled\r\n"),
            (MapUnavailable("popmap /p: gone"), b"a NO [UNAVAILABLE] "),
            (ConnectFailed("h: gone"), b"a NO [UNAVAILABLE] Could not connect to server\r\n"),
            (TLSNotPresent(), b"a NO [PRIVACYREQUIRED] TLS not present\r\n"),
            (ServerTLSNotPresent(), b"a NO [UNAVAILABLE] "),
            (MechanismUnavailable(), b"a NO [UNAVAILABLE] "),
            (ServerRefused("", b"NO [LIMIT] full"), b"a NO [LIMIT] full\r\n"),
            (ServerRefused("", b"NO [X] y", b"* NO z\r\n"), b"* NO z\r\na NO [X] y\r\n"),
            (ServerRefused("", b"BAD [LIMIT] full"), b"a NO [LIMIT] full\r\n"),
            (ServerRefused("", b"BAD full"), b"a NO [UNAVAILABLE] full\r\n"),
            (ServerRefused("", b"BYE full"), b"a NO [UNAVAILABLE] full\r\n"),
            (Rejected(reply="Account closed"), b"a NO [AUTHENTICATIONFAILED] Account closed\r\n"),
        ],
    )
    def test_refusal_has_a_response_code(self, failure: Failure, answer: bytes) -> None:
        assert PROTOCOL.refusal(JOE, failure, verbatim=False).startswith(answer)

    @pytest.mark.parametrize(
        ("failure", "answer"),
        [
            (Rejected(server_line=b"NO [ALERT] locked"), b"a NO [ALERT] locked\r\n"),
            (Rejected(server_line=b"NO x", untagged=b"* NO y\r\n"), b"* NO y\r\na NO x\r\n"),
            (ServerRefused("", b"BAD x"), b"a BAD x\r\n"),
            (ServerRefused("", b"BYE [LIMIT] x"), b"a NO [LIMIT] x\r\n"),
            (Rejected(), b"a NO [AUTHENTICATIONFAILED] Re-Authentication Failure\r\n"),
        ],
    )
    def test_verbatim_refusal_is_the_real_servers_if_there_is_one(
        self, failure: Failure, answer: bytes
    ) -> None:
        assert PROTOCOL.refusal(JOE, failure, verbatim=True) == answer
