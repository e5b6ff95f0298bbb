"""Options: the command line, the configuration file, and the effective values."""

import re
from pathlib import Path
from typing import Any

import pytest

from perdition.cli import parse, usage
from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.options.configuration import Configuration
from perdition.options.table import OPTIONS, SHORT, GivenOptions, Group, Options
from perdition.options.values import LogPassword, SSLMode, State, States, TLSUse


def read_options(name: str, command_line: GivenOptions) -> tuple[Options, list[str]]:
    """The effective options and the remarks about them."""
    configuration = Configuration(name, command_line)
    return configuration.read(), configuration.warnings


def options(*arguments: str, name: str = "perdition") -> Options:
    """The options of a command line without a configuration file."""
    return read_options(name, parse(["--config_file", "", *arguments]))[0]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The path of a configuration file, which does not exist yet."""
    return tmp_path / "perdition.conf"


class TestCommandLine:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--timeout", "60"],
            ["--timeout=60"],
            ["-t60"],
            ["-t", "60"],
            ["-nt60"],
            ["-nt", "60"],
            ["--timeout", "5", "-t", "60"],
        ],
    )
    def test_every_form_sets_the_value(self, arguments: list[str]) -> None:
        assert parse(arguments).values["timeout"] == 60

    @pytest.mark.parametrize("arguments", [["-nd"], ["-n", "-d"], ["--no_lookup", "--debug"]])
    def test_flags_need_no_value(self, arguments: list[str]) -> None:
        assert parse(arguments).values == {"no_lookup": True, "debug": True}

    @pytest.mark.parametrize("arguments", [["-M", ""], ["--map_library="], ["--map_library", ""]])
    def test_value_may_be_empty(self, arguments: list[str]) -> None:
        assert parse(arguments).values == {"map_library": ""}

    @pytest.mark.parametrize(
        ("arguments", "value"),
        [(["-O", "-d"], "-d"), (["-O--"], "--"), (["--ok_line=a=b"], "a=b"), (["-O", "-"], "-")],
    )
    def test_value_may_look_like_an_option(self, arguments: list[str], value: str) -> None:
        assert parse(arguments).values == {"ok_line": value}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--time", "60"], "--time: no such option"),
            (["--Timeout", "60"], "--Timeout: no such option"),
            (["-x"], "-x: no such option"),
            (["-nx"], "-x: no such option"),
            (["--debug=yes"], "--debug: takes no value"),
            (["--timeout"], "--timeout: expected a value: SECONDS"),
            (["-nt"], "--timeout: expected a value: SECONDS"),
            (["mail.example"], "mail.example: expected an option"),
            (["-"], "-: expected an option"),
            (["--"], "--: expected an option"),
            (["--timeout", "-1"], "--timeout '-1': expected a number"),
            (["-t", ""], "--timeout '': expected a number"),
            (["-t", "1 "], "--timeout '1 ': expected a number"),
            (["-t", "٣"], "--timeout '٣': expected a number"),
            (["-l", "٣"], "--listen_port '٣': expected a service name"),
            (["-t", "9" * 5000], "expected a number"),
            (["--workers", "0"], "--workers '0': expected a number of at least 1"),
            (["-P", "SMTP"], "--protocol 'SMTP': expected one of POP3"),
            (["-S", "none"], "--strip_domain 'none': expected a list of servername_lookup"),
            (["-S", "all,"], "--strip_domain 'all,': expected a list of servername_lookup"),
            (["-S", "all,2"], "--strip_domain 'all,2': expected a list of"),
            (["-A", "all,x"], "--add_domain 'all,x': expected a list of"),
            (
                ["--log_passwd", "yes"],
                "--log_passwd 'yes': expected one of never, ok, fail, always",
            ),
            (["--query_key", r"\x"], "--query_key '\\\\x': expected formats with one of"),
            (["--query_key", "\\"], "expected formats with one of"),
            (["--pid_file", "run.pid"], "--pid_file 'run.pid': expected an absolute path"),
            (["--metrics_address", "localhost"], "'localhost': expected a host and a port"),
            (["--metrics_address", "run/socket"], "'run/socket': expected a host and a port"),
            (["--ssl_mode", "tls"], "--ssl_mode 'tls': expected none, or a list of ssl_listen"),
            (["--ssl_mode", "ssl_all_force"], "; unknown: 'ssl_all_force'"),
            (["--ssl_mode", "ssl_all,tls_outgoing"], "either ssl_outgoing or tls_outgoing"),
            (["--ssl_listen_min_proto_version", ""], "it must not be empty"),
            (["--ssl_listen_max_proto_version", "tls1"], "expected one of sslv3, tlsv1"),
        ],
    )
    def test_mistake_is_reported_with_the_remedy(self, arguments: list[str], message: str) -> None:
        with pytest.raises(StartupError) as error:
            parse(arguments)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


ALL = frozenset(State)
LOOKUP = frozenset({State.SERVERNAME_LOOKUP})
LOGIN = frozenset({State.REMOTE_LOGIN})
AUTH = frozenset({State.LOCAL_AUTHENTICATION})


class TestValues:
    @pytest.mark.parametrize(
        ("arguments", "name", "value"),
        [
            (["--metrics_address", ":9100"], "metrics_address", Endpoint("", "9100")),
            (["--metrics_address", "[::1]:9100"], "metrics_address", Endpoint("::1", "9100")),
            (["--metrics_address", "/run/socket"], "metrics_address", "/run/socket"),
            (["--metrics_address", ""], "metrics_address", None),
            (["-Sall"], "strip_domain", States(ALL)),
            (["-S", "Server_Lookup,LOCAL_AUTH"], "strip_domain", States(LOOKUP | AUTH)),
            (
                ["-S", "servername_lookup", "-S", "remote_login"],
                "strip_domain",
                States(LOOKUP | LOGIN),
            ),
            (["-S", ""], "strip_domain", States()),
            (["-A", "all,2"], "add_domain", States(ALL, 2)),
            (["-A", "remote_login,0"], "add_domain", States(LOGIN, 0)),
            (["-A", "remote_login", "-A", "local_auth,3"], "add_domain", States(LOGIN | AUTH, 3)),
            (["-P", "imap4s"], "protocol", "IMAP4S"),
            (["--log_passwd", "OK"], "log_passwd", LogPassword.OK),
            (["--query_key", r"\U,\D\\"], "query_key", (r"\U", r"\D\\")),
            (["--query_key", ""], "query_key", ()),
            (["-s", ""], "outgoing_server", ()),
            (
                ["-s", "a:1,[::1]:2, b"],
                "outgoing_server",
                (Endpoint("a", "1"), Endpoint("::1", "2"), Endpoint("b")),
            ),
            (["-s", "a", "-s", "b"], "outgoing_server", (Endpoint("b"),)),
            (["--pid_file", ""], "pid_file", ""),
            (["-l", "imap"], "listen_port", "imap"),
            (
                ["--ssl_listen_min_proto_version", "TLSv1.2"],
                "ssl_listen_min_proto_version",
                "tlsv1.2",
            ),
        ],
    )
    def test_value_is_read_by_the_type_of_its_option(
        self, arguments: list[str], name: str, value: Any
    ) -> None:
        assert parse(arguments).values[name] == value

    @pytest.mark.parametrize(
        ("modes", "listen", "outgoing"),
        [
            ("", TLSUse.NONE, TLSUse.NONE),
            ("none", TLSUse.NONE, TLSUse.NONE),
            ("ssl_listen", TLSUse.SSL, TLSUse.NONE),
            ("ssl_outgoing", TLSUse.NONE, TLSUse.SSL),
            ("SSL_all", TLSUse.SSL, TLSUse.SSL),
            ("tls_all", TLSUse.TLS, TLSUse.TLS),
            ("ssl_listen,tls_outgoing", TLSUse.SSL, TLSUse.TLS),
            ("tls_listen_force", TLSUse.TLS_FORCE, TLSUse.NONE),
            ("tls_all_force", TLSUse.TLS_FORCE, TLSUse.TLS_FORCE),
            ("tls_all,tls_outgoing_force", TLSUse.TLS, TLSUse.TLS_FORCE),
            ("tls_listen_force,tls_listen", TLSUse.TLS_FORCE, TLSUse.NONE),
            ("none,ssl_listen", TLSUse.SSL, TLSUse.NONE),
        ],
    )
    def test_ssl_mode_sets_tls_on_both_sides(
        self, modes: str, listen: TLSUse, outgoing: TLSUse
    ) -> None:
        mode = parse(["--ssl_mode", modes]).values["ssl_mode"]
        assert mode == SSLMode(listen, outgoing)
        assert parse(["--ssl_mode", str(mode)]).values["ssl_mode"] == mode


class TestEffective:
    @pytest.mark.parametrize(
        ("name", "arguments", "protocol", "port"),
        [
            ("perdition", [], "POP3", "110"),
            ("perdition.pop3", [], "POP3", "110"),
            ("perdition.pop3s", [], "POP3S", "995"),
            ("perdition.imap4", [], "IMAP4", "143"),
            ("perdition.imap4s", [], "IMAP4S", "993"),
            ("perdition.imaps", [], "IMAP4S", "993"),
            ("perdition.managesieve", [], "MANAGESIEVE", "4190"),
            ("perdition.pop3", ["-P", "IMAP4"], "IMAP4", "143"),
            ("perdition.imap4", ["-p", "1143"], "IMAP4", "1143"),
        ],
    )
    def test_protocol_and_port_follow_the_program_name(
        self, name: str, arguments: list[str], protocol: str, port: str
    ) -> None:
        found = options(*arguments, name=name)
        assert (found.service.name, found.default_port) == (protocol, port)

    @pytest.mark.parametrize(
        ("name", "arguments", "capability"),
        [
            ("perdition.pop3", [], "UIDL.USER"),
            ("perdition.pop3", ["-I", "TOP"], "TOP"),
            ("perdition.pop3", ["-I", "TOP", "--pop_capability", "UIDL"], "UIDL"),
            ("perdition.imap4", ["--imap_capability", "IMAP4rev1 ID"], "IMAP4rev1 ID"),
            ("perdition.imap4", ["--imap_capability", ""], ""),
            ("perdition.imap4", ["--pop_capability", "TOP"], "IMAP4 IMAP4REV1"),
            ("perdition.managesieve", ["-I", '"SIEVE" ""'], '"SIEVE" ""'),
        ],
    )
    def test_capability_is_that_of_the_protocol(
        self, name: str, arguments: list[str], capability: str
    ) -> None:
        assert options(*arguments, name=name).own_capability == capability

    @pytest.mark.parametrize(
        ("name", "arguments", "mode"),
        [
            ("perdition.pop3", [], "none"),
            ("perdition.pop3s", [], "ssl_listen,ssl_outgoing"),
            ("perdition.imaps", ["--ssl_mode", "ssl_listen"], "ssl_listen"),
            ("perdition.imaps", ["--ssl_mode", "none"], "none"),
            (
                "perdition.imap4",
                ["--ssl_mode", "tls_all_force"],
                "tls_listen_force,tls_outgoing_force",
            ),
        ],
    )
    def test_tls_mode_follows_the_protocol(
        self, name: str, arguments: list[str], mode: str
    ) -> None:
        assert str(options(*arguments, name=name).tls) == mode

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["-D", ""], "domain_delimiter"),
            (
                [
                    "--ssl_listen_min_proto_version=tlsv1.2",
                    "--ssl_listen_max_proto_version=tlsv1.1",
                ],
                "ssl_listen_min_proto_version",
            ),
            (["--ssl_passphrase_fd=3", "--ssl_passphrase_file=/x"], "ssl_passphrase_fd"),
        ],
    )
    def test_conflicting_options_are_reported(self, arguments: list[str], message: str) -> None:
        with pytest.raises(StartupError, match=message):
            options(*arguments)

    @pytest.mark.parametrize(
        ("arguments", "ok", "failed"),
        [
            ([], False, False),
            (["--log_passwd=always"], False, False),
            (["-d"], False, False),
            (["-d", "--log_passwd=always"], True, True),
            (["-d", "--log_passwd=ok"], True, False),
            (["-d", "--log_passwd=fail"], False, True),
        ],
    )
    def test_passwords_are_logged_only_with_debug(
        self, arguments: list[str], ok: bool, failed: bool
    ) -> None:
        found = options(*arguments)
        assert (found.logs_password(ok=True), found.logs_password(ok=False)) == (ok, failed)

    @pytest.mark.parametrize(
        ("arguments", "foreground"),
        [([], False), (["--no_daemon"], True), (["-F-"], True), (["-F+"], True), (["-F/x"], False)],
    )
    def test_foreground_follows_no_daemon_and_a_log_to_a_standard_stream(
        self, arguments: list[str], foreground: bool
    ) -> None:
        assert options(*arguments).foreground == foreground

    @pytest.mark.parametrize("argument", ["-o", "--server_resp_line", "--server_ok_line"])
    def test_both_names_of_server_resp_line_are_known(self, argument: str) -> None:
        assert options(argument).answers_as_server
        assert not options().answers_as_server

    @pytest.mark.parametrize(
        ("name", "capability", "announced"),
        [
            ("perdition.imap4", "IMAP4rev1 AUTH=PLAIN ID auth=login", ["AUTH=PLAIN", "auth=login"]),
            ("perdition.imap4", "IMAP4rev1 XAUTH=PLAIN", []),
            ("perdition.pop3", "UIDL  SASL PLAIN LOGIN  USER", ["SASL PLAIN", "SASL LOGIN"]),
            ("perdition.pop3", "UIDL.USER", []),
            ("perdition.managesieve", '"SASL" "PLAIN LOGIN"', ["SASL LOGIN"]),
            ("perdition.managesieve", '"SASL"  "SIEVE" "x"', []),
        ],
    )
    def test_announced_mechanism_that_is_refused_brings_a_warning(
        self, name: str, capability: str, announced: list[str]
    ) -> None:
        warnings = options("-I", capability, name=name).warnings()
        assert len(warnings) == len(announced)
        assert all(word in warning for word, warning in zip(announced, warnings, strict=True))
        assert not options(name=name).warnings()

    def test_every_effective_option_is_logged(self) -> None:
        logged = options("-t", "60", "-A", "all,2", "-s", "a:1,b").logged()
        assert "timeout=60" in logged
        assert 'add_domain="servername_lookup,local_authentication,remote_login,2"' in logged
        assert 'outgoing_server="a:1,b"' in logged
        assert [part.partition("=")[0] for part in logged.split(", ")] == [
            name
            for name in sorted(OPTIONS)
            if name not in ("help", "version", "config_file", "lookup", "takeover")
        ]


class TestFile:
    @pytest.mark.parametrize(
        ("text", "name", "value"),
        [
            ("timeout 60", "timeout", 60),
            ("t 60", "timeout", 60),
            ("no_lookup", "no_lookup", True),
            ("n", "no_lookup", True),
            ("quiet on", "quiet", True),
            ("quiet off", "quiet", False),
            ('map_library ""', "map_library", ""),
            ("S servername_lookup\nS remote_login", "strip_domain", States(LOOKUP | LOGIN)),
        ],
    )
    def test_entry_sets_its_option(self, config: Path, text: str, name: str, value: Any) -> None:
        config.write_text(text)
        found, remarks = read_options("perdition", parse(["-f", str(config)]))
        assert getattr(found, name) == value
        assert not remarks

    @pytest.mark.parametrize(
        ("text", "arguments", "name", "value"),
        [
            ("timeout 60", ["-t", "30"], "timeout", 30),
            ("s a,b", ["-s", "c"], "outgoing_server", (Endpoint("c"),)),
            (r"query_key \u", ["--query_key", r"\U"], "query_key", (r"\U",)),
            ("S all", ["-S", "remote_login"], "strip_domain", States(LOGIN)),
            ("P IMAP4", ["-P", "POP3"], "protocol", "POP3"),
        ],
    )
    def test_command_line_overrides_it(
        self, config: Path, text: str, arguments: list[str], name: str, value: Any
    ) -> None:
        config.write_text(text)
        found, _ = read_options("perdition", parse(["-f", str(config), *arguments]))
        assert getattr(found, name) == value

    def test_overrides_the_program_name(self, config: Path) -> None:
        config.write_text("protocol IMAP4")
        found, _ = read_options("perdition.pop3", parse(["-f", str(config)]))
        assert found.service.name == "IMAP4"

    @pytest.mark.parametrize("text", ["help", "h", "config_file /x", "f /x"])
    def test_options_for_the_command_line_only_are_ignored(self, config: Path, text: str) -> None:
        config.write_text(text)
        found, remarks = read_options("perdition", parse(["-f", str(config)]))
        assert found.config_file == str(config)
        assert not found.help
        assert not remarks

    def test_key_without_a_value_gets_a_remark(self, config: Path) -> None:
        config.write_text("timeout 60\ntimeout\n")
        found, remarks = read_options("perdition", parse(["-f", str(config)]))
        assert found.timeout == 60
        assert [remark.startswith(f"{config} line 2: timeout ") for remark in remarks] == [True]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a\ntime 60", "line 2: time: no such option"),
            ("--timeout 60", "line 1: --timeout: no such option"),
            ("\nt x", "line 2: timeout 'x': expected a number"),
            ("quiet maybe", "line 1: quiet 'maybe': expected on or off"),
            ("a \\\n\nt 'x", "line 3: unclosed quote"),
        ],
    )
    def test_mistake_is_reported_with_file_and_line(
        self, config: Path, text: str, message: str
    ) -> None:
        config.write_text(text)
        with pytest.raises(StartupError) as error:
            read_options("perdition", parse(["-f", str(config)]))
        assert str(config) in str(error.value)
        assert message in str(error.value)

    def test_unreadable_file_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(StartupError, match=str(tmp_path)):
            read_options("perdition", parse(["-f", str(tmp_path)]))

    def test_bytes_of_any_encoding_are_preserved(self, config: Path) -> None:
        config.write_bytes(b"O h\xf6h")
        found, _ = read_options("perdition", parse(["-f", str(config)]))
        assert found.ok_line == "h\udcf6h"

    @pytest.mark.parametrize(
        ("present", "found"),
        [
            (["perdition.imaps.conf", "perdition.imap4s.conf", "perdition.conf"], "imaps"),
            (["perdition.imap4s.conf", "perdition.conf", "perdition.pop3.conf"], "imap4s"),
            (["perdition.conf", "perdition.imap4.conf"], "conf"),
            (["perdition.pop3.conf"], "You are so in"),
        ],
    )
    def test_first_existing_file_in_the_manuals_order_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: list[str], found: str
    ) -> None:
        monkeypatch.setattr("perdition.options.configuration.SYSCONFDIR", tmp_path)
        for name in present:
            kind = name.removeprefix("perdition.").removesuffix(".conf")
            (tmp_path / name).write_text(f"ok_line {kind}")
        assert read_options("perdition.imaps", parse([]))[0].ok_line == found


class TestHelp:
    def test_has_each_option_once_on_a_line_of_its_group(self) -> None:
        _, *groups = re.split(r"\n\n(.+):\n(?=  )", usage("perdition.imap4"))
        shown = {
            heading: re.findall(r"^  (?:-\w, |    )--(\w+) .*\w", lines, re.MULTILINE)
            for heading, lines in zip(groups[::2], groups[1::2], strict=True)
        }
        assert shown == {
            group.value: [name for name, option in OPTIONS.items() if option.group is group]
            for group in Group
        }
        assert sum(map(len, shown.values())) == len(OPTIONS)

    def test_example_is_a_command_line(self) -> None:
        [example] = re.findall(r"Example: (.*)", usage("perdition.imap4"))
        name, *arguments = example.split()
        assert name == "perdition.imap4"
        assert parse(arguments).values["no_daemon"]

    def test_letters_are_unique(self) -> None:
        letters = [option.short for option in OPTIONS.values() if option.short]
        assert sorted(letters) == sorted(SHORT)

    def test_fits_a_terminal(self) -> None:
        assert max(len(line) for line in usage("perdition").splitlines()) <= 100
