"""Every option, declared once.

The command line, the configuration file, ``--help``, the options that are logged, the sample
configuration and the manual's OPTIONS section all come from the attributes of ``Options``.
"""

import grp
from typing import Any, NamedTuple, Never, TypeVar

from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.options.option_types import (
    COUNT,
    DEPTH,
    DESCRIPTOR,
    ENDPOINTS,
    FILE,
    FILES,
    FLAG,
    FORMATS,
    LOG_PASSWORD,
    LOWEST_VERSION,
    MAP_OPTION,
    METRICS_ADDRESS,
    PATH,
    PORT,
    PROTOCOL,
    SECONDS,
    SSL_MODE,
    STATES,
    STATES_AND_DEPTH,
    STRING,
    TIME_LIMIT,
    VERSION,
    WORKERS,
    OptionType,
    parse_path,
    text,
)
from perdition.options.values import NO_STATES, TLS_VERSIONS, LogPassword, SSLMode, States, TLSUse
from perdition.protocol import SERVICES, MailService

T = TypeVar("T")


class Option(NamedTuple):
    """What is said of an option, besides its name."""

    type: OptionType[Any]
    default: Any
    says: str
    """What the option does, in sentences."""
    short: str = ""
    derived: str = ""
    """What the default is, where it is derived from other things."""
    restart: bool = False
    """Whether a change counts only after a restart."""
    reread: bool = False
    """Whether SIGHUP reads the file again, while another file needs a restart."""
    in_file: bool = True
    """Whether the option makes sense in the configuration file; if not it is ignored there."""


def option(kind: OptionType[T], default: T, says: str, **more: Any) -> T:
    """Declare an option in ``Options``, whose instances have a value in its place."""
    declared: Any = Option(kind, default, says, **more)
    value: T = declared
    return value


def default_group() -> str:
    """Return the group that belongs to the user nobody on this system."""
    try:
        return grp.getgrnam("nobody").gr_name
    except KeyError:
        return "nogroup"


MANAGESIEVE_CAPABILITY = (
    '"IMPLEMENTATION" "perdition"  '
    '"SIEVE" "comparator-i;octet comparator-i;ascii-casemap fileinto reject envelope '
    "encoded-character vacation subaddress comparator-i;ascii-numeric relational regex "
    'imap4flags copy include variables body enotify environment mailbox date"  '
    '"SASL" "PLAIN"  "NOTIFY" "mailto"  "VERSION" "1.0"'
)
"""VERSION is what RFC 5804 has every server say; the manual's own number breaks clients."""


class Options:
    """What a site has asked for; the sections of the manual say what each option does."""

    add_domain: States = option(
        STATES_AND_DEPTH,
        NO_STATES,
        "Append a domain to user names that have none, in the given states: servername_lookup "
        "(before the popmap is asked; not with client_server_specification), "
        "local_authentication, remote_login, or all. The domain is explicit_domain, or else the "
        "name of the IP address that the client connected to, less its first STRIP_DEPTH levels "
        "(1 unless given).",
        short="A",
    )
    authenticate_timeout: int = option(
        SECONDS,
        1800,
        "Close the connection of a client that has not logged in and says nothing for so long. "
        "A real server that is silent for so long during a login fails that login. 0: never.",
    )
    authenticate_in: bool = option(
        FLAG,
        False,
        "Ask PAM whether the user's password is right before connecting to the real server.",
        short="a",
        restart=True,
    )
    no_bind_banner: bool = option(
        FLAG,
        False,
        "Greet with the system's own host name instead of the name of the address that the "
        "client connected to.",
        short="B",
    )
    bind_address: tuple[Endpoint, ...] = option(
        ENDPOINTS,
        (),
        "Listen to these addresses only: names, IPv4 addresses or IPv6 addresses in brackets, "
        "each with a port if it is not listen_port. Without any: to all addresses.",
        short="b",
        restart=True,
    )
    connection_logging: bool = option(
        FLAG,
        False,
        "With debug: log what clients, perdition and real servers say to each other until the "
        "user is logged in. Passwords are blanked.",
        short="C",
    )
    connect_relog: int = option(
        SECONDS,
        300,
        "Log the Auth line of an open session again each time so many seconds have passed, for "
        "mail relays that let in whoever reads mail. 0: never.",
    )
    client_server_specification: bool = option(
        FLAG,
        False,
        "Let a client choose its real server: user, domain delimiter, server, and a port if it "
        "is not the default one.",
        short="c",
    )
    domain_delimiter: str = option(
        STRING,
        "@",
        "What divides a user from a domain or server; one character or several. Its last "
        "occurrence counts.",
        short="D",
    )
    debug: bool = option(FLAG, False, "Log what is done and why, in detail.", short="d")
    drain_timeout: int = option(
        SECONDS,
        0,
        "After SIGTERM or SIGINT, give open sessions so long to end by themselves. SIGQUIT gives "
        "them all the time they want.",
    )
    explicit_domain: str | None = option(
        STRING, None, "The domain that add_domain appends, whole.", short="e"
    )
    log_facility: str = option(
        text("FACILITY"),
        "mail",
        "Where to log to: a facility of syslog, a file (a name that begins with /), - for standard "
        "output or + for standard error. With - and + perdition stays in the foreground.",
        short="F",
        restart=True,
    )
    config_file: str | None = option(
        FILE,
        None,
        "The configuration file. What the command line says goes before it. Empty: none.",
        short="f",
        derived="the first that exists of <basename>.conf, perdition.<protocol>.conf and "
        "perdition.conf in /etc/perdition",
        in_file=False,
    )
    group: str = option(
        text("GROUP"),
        default_group(),
        "The group to run as, by name or number.",
        short="g",
        derived="nobody, or nogroup where the system has no group nobody",
        restart=True,
    )
    help: bool = option(FLAG, False, "Show all options and end.", short="h", in_file=False)
    capability: str | None = option(
        STRING,
        None,
        "An older name of pop_capability, imap_capability or managesieve_capability, whichever "
        "goes with the protocol; that one goes before it.",
        short="I",
    )
    imap_capability: str = option(
        STRING,
        "IMAP4 IMAP4REV1",
        "What is announced to IMAP clients before they log in, divided by spaces. STARTTLS and "
        "LOGINDISABLED come and go with what is possible. LITERAL+ may be added if all real "
        "servers have it too.",
    )
    inetd_mode: bool = option(
        FLAG, False, "Serve one client on standard input and output.", short="i", restart=True
    )
    connections_per_client: int = option(
        COUNT,
        0,
        "Serve one address so many connections at once at the most; further ones are closed at "
        "once. 0: any.",
        restart=True,
    )
    connection_limit: int = option(
        COUNT,
        0,
        "Serve so many connections at once at the most; further ones are closed at once. 0: any.",
        short="L",
        restart=True,
    )
    listen_port: str = option(
        PORT,
        "",
        "The port to listen to, by number or name.",
        short="l",
        derived="110, 995, 143, 993 or 4190, by the protocol",
        restart=True,
    )
    login_disabled: bool = option(
        FLAG, False, "Refuse every login; IMAP clients are told by LOGINDISABLED."
    )
    log_passwd: LogPassword = option(
        LOG_PASSWORD,
        LogPassword.NEVER,
        "With debug: log the password of logins that fail (fail), of those that are ok (ok), of "
        "all (always) or of none (never).",
    )
    lookup: str | None = option(
        text("USER[,USER...]"),
        None,
        "Tell for each user which keys are looked up, what the popmap has for them, and where the "
        "user would be logged in; then end, with 0 if all have a server, 1 if one has none and 2 "
        "if the popmap cannot be asked.",
        in_file=False,
    )
    lower_case: States = option(
        STATES,
        NO_STATES,
        "Convert user names to lower case in the given states (see add_domain).",
    )
    managesieve_capability: str = option(
        STRING,
        MANAGESIEVE_CAPABILITY,
        "What is announced to ManageSieve clients: quoted names, with quoted values where they "
        "have one, divided by two spaces. STARTTLS comes and goes with what is possible.",
    )
    map_library: str = option(
        text("FILENAME"),
        "/usr/lib/libperditiondb_gdbm.so.0",
        "The popmap's kind: gdbm, bdb, cdb, sqlite, posix_regex, mysql, postgresql, odbc, ldap, "
        "redis, http, daemon, nis, or the file name of the C library that it had in perdition 2.2. "
        "Or a C library, or a kind of a Python package, of the site's own. Empty: no popmap.",
        short="M",
    )
    map_library_opt: str = option(
        MAP_OPTION,
        "",
        "What the popmap is opened with; see perditiondb(5). Where a password stands in it, "
        "@ and the full path of a file stand for that file's first line.",
        short="m",
    )
    map_cache: int = option(
        SECONDS,
        0,
        "Use a popmap's answer again for so long, and longer while the popmap cannot be asked. "
        "SIGHUP forgets all answers. 0: never.",
    )
    map_timeout: int = option(
        TIME_LIMIT,
        10,
        "Refuse a login for the time being when a popmap that is not a local file gives no "
        "answer for so long.",
    )
    metrics_address: Endpoint | str | None = option(
        METRICS_ADDRESS,
        None,
        "Tell Prometheus, by HTTP at this address or Unix socket, what there is to count: "
        "sessions, logins and how they went, octets and time. The Unix socket is for the user and "
        "the group that perdition runs as. Empty: nowhere.",
        restart=True,
    )
    no_daemon: bool = option(FLAG, False, "Stay in the foreground.", restart=True)
    no_lookup: bool = option(
        FLAG,
        False,
        "Look up neither names of hosts nor of ports: popmap and options must give numbers. "
        "Implies no_bind_banner.",
        short="n",
        restart=True,
    )
    ok_line: str = option(
        STRING, "You are so in", "What clients are told when they are logged in.", short="O"
    )
    server_ok_line: bool = option(FLAG, False, "An older name of server_resp_line.")
    server_resp_line: bool = option(
        FLAG,
        False,
        "Give clients the real server's own answer to the login in place of perdition's.",
        short="o",
    )
    protocol: str | None = option(
        PROTOCOL,
        None,
        "The protocol: POP3, POP3S, IMAP4, IMAP4S or MANAGESIEVE.",
        short="P",
        derived="by the name that perdition is called by, else POP3",
        restart=True,
    )
    outgoing_port: str = option(
        PORT,
        "",
        "The real servers' port, where neither popmap nor option gives one.",
        short="p",
        derived="as listen_port's",
    )
    outgoing_server: tuple[Endpoint, ...] = option(
        ENDPOINTS,
        (),
        "The real servers of users that are not in the popmap, in turn. One that cannot be "
        "reached is passed over.",
        short="s",
    )
    pid_file: str | None = option(
        PATH,
        None,
        "The file that holds the master's process id. Its directory is made if it is missing. "
        "Empty: none.",
        derived="/var/run/<basename>/<basename>.pid",
        restart=True,
    )
    pop_capability: str = option(
        STRING,
        "UIDL.USER",
        "What is announced to POP3 clients before they log in, divided by dots. STLS comes and "
        "goes with what is possible.",
    )
    strip_domain: States = option(
        STATES,
        NO_STATES,
        "Take the domain delimiter and what follows it from user names, in the given states (see "
        "add_domain).",
        short="S",
    )
    takeover: bool = option(
        FLAG,
        False,
        "Take the place of the perdition that runs with the same pid_file, without a client "
        "noticing: listen on its sockets, and let its open sessions go on there until they end, "
        "or for its drain_timeout if that is not 0. If this perdition cannot start, that one goes "
        "on as if nothing had been.",
        in_file=False,
    )
    timeout: int = option(
        SECONDS,
        1800,
        "Close a session after its login when nothing moves for so long. 0: never.",
        short="t",
    )
    tcp_keepalive: bool = option(
        FLAG,
        False,
        "Have the system find dead peers, of clients and of real servers.",
        restart=True,
    )
    username: str = option(
        text("USERNAME"),
        "nobody",
        "The user to run as, by name or number.",
        short="u",
        restart=True,
    )
    username_from_database: bool = option(
        FLAG,
        False,
        "Where the popmap gives a user name in front of the server, log in with that one.",
        short="U",
    )
    quiet: bool = option(FLAG, False, "Log errors only; debug goes before it.", short="q")
    query_key: tuple[str, ...] = option(
        FORMATS,
        (),
        "The keys to ask the popmap for, until one is found, in place of the user name: \\U the "
        "user name, \\u its part before the domain delimiter, \\D the delimiter, \\d the part "
        "behind it, \\i and \\p the client's IP address and port, \\I and \\P those it connected "
        "to, \\\\ a backslash.",
    )
    workers: int = option(
        WORKERS,
        0,
        "How many processes serve clients.",
        derived="as many as there are processors",
        restart=True,
    )

    ssl_mode: SSLMode | None = option(
        SSL_MODE,
        None,
        "Where TLS is used: ssl_ from a connection's first byte, tls_ after STARTTLS or STLS; "
        "with _listen by clients, with _outgoing by real servers, with _all by both. With _force "
        "no login is accepted or sent without it. none: nowhere.",
        derived="ssl_all for POP3S and IMAP4S, else none",
        restart=True,
    )
    ssl_ca_accept_self_signed: bool = option(
        FLAG, False, "Accept real servers' chains that end in an unknown authority.", restart=True
    )
    ssl_ca_chain_file: str | None = option(
        FILE,
        None,
        "Certificates, from the one that issued ssl_cert_file's up to the root, in PEM: clients "
        "are shown them, and they are the authorities in the place of ssl_ca_file's and "
        "ssl_ca_path's.",
        restart=True,
    )
    ssl_ca_file: str = option(
        FILE,
        "/etc/perdition/perdition.ca.pem",
        "The authorities that real servers' and clients' certificates must come from, in PEM.",
        restart=True,
    )
    ssl_ca_path: str = option(
        text("PATHNAME", parse_path),
        "/etc/perdition/perdition.ca/",
        "A directory of such authorities, prepared by openssl rehash.",
        restart=True,
    )
    ssl_cert_accept_expired: bool = option(
        FLAG, False, "Accept real servers' certificates whose time is over.", restart=True
    )
    ssl_cert_accept_not_yet_valid: bool = option(
        FLAG, False, "Accept real servers' certificates whose time has not come.", restart=True
    )
    ssl_cert_accept_self_signed: bool = option(
        FLAG,
        False,
        "Accept real servers' certificates that are signed by themselves.",
        restart=True,
    )
    ssl_cert_file: tuple[str, ...] = option(
        FILES,
        ("/etc/perdition/perdition.crt.pem",),
        "The certificate that clients are shown, in PEM, with those that vouch for it. Given "
        "several times, each with its ssl_key_file: the one for the name that a client asks for, "
        "else the first.",
        restart=True,
        reread=True,
    )
    ssl_cert_verify_depth: int = option(
        DEPTH, 9, "How many certificates there may be above a real server's own.", restart=True
    )
    ssl_dh_params_file: str | None = option(
        FILE,
        None,
        "Diffie-Hellman parameters, in PEM.",
        derived="those in ssl_cert_file, if there are any",
        restart=True,
        reread=True,
    )
    ssl_key_file: tuple[str, ...] = option(
        FILES,
        ("/etc/perdition/perdition.key.pem",),
        "The private key of ssl_cert_file's certificate, in PEM.",
        restart=True,
        reread=True,
    )
    ssl_listen_ciphers: str = option(
        STRING, "", "The ciphers for clients, as in ciphers(1). Empty: OpenSSL's own.", restart=True
    )
    ssl_listen_compression: bool = option(
        FLAG, False, "Allow TLS to compress what goes to and from clients.", restart=True
    )
    ssl_listen_max_proto_version: str = option(
        VERSION,
        "",
        "The highest TLS version for clients. Empty: OpenSSL's own.",
        restart=True,
    )
    ssl_listen_min_proto_version: str = option(
        LOWEST_VERSION, "tlsv1", "The lowest TLS version for clients.", restart=True
    )
    ssl_no_cert_verify: bool = option(
        FLAG, False, "Verify no certificates, on either side.", restart=True
    )
    ssl_no_cipher_server_preference: bool = option(
        FLAG, False, "Let the client's order of ciphers decide.", restart=True
    )
    ssl_no_client_cert_verify: bool = option(
        FLAG, False, "Do not verify certificates that clients show.", restart=True
    )
    ssl_no_cn_verify: bool = option(
        FLAG,
        False,
        "Do not verify that a real server's certificate is for the name it was connected by.",
        restart=True,
    )
    ssl_outgoing_ciphers: str = option(
        STRING,
        "",
        "The ciphers for real servers, as in ciphers(1). Empty: OpenSSL's own.",
        restart=True,
    )
    ssl_outgoing_compression: bool = option(
        FLAG, False, "Allow TLS to compress what goes to and from real servers.", restart=True
    )
    ssl_outgoing_max_proto_version: str = option(
        VERSION, "", "The highest TLS version for real servers. Empty: OpenSSL's own.", restart=True
    )
    ssl_outgoing_min_proto_version: str = option(
        LOWEST_VERSION, "tlsv1", "The lowest TLS version for real servers.", restart=True
    )
    ssl_passphrase_fd: int | None = option(
        DESCRIPTOR,
        None,
        "A file descriptor whose first line is ssl_key_file's passphrase.",
        derived="0; if that is a terminal, the passphrase is asked for there",
        restart=True,
    )
    ssl_passphrase_file: str | None = option(
        FILE, None, "A file whose first line is ssl_key_file's passphrase.", restart=True
    )

    def __init__(self, **given: Any) -> None:
        """Take what is given, and the defaults of all others; raises StartupError."""
        if unknown := given.keys() - OPTIONS.keys():
            raise TypeError(f"no such options: {unknown}")
        vars(self).update(DEFAULTS | given)
        self.check()

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"{name}: options do not change; make others with replace()")

    def replace(self, **given: Any) -> "Options":
        """Return the options with other values for some; raises StartupError."""
        return Options(**(vars(self) | given))

    def check(self) -> None:
        """Hold the rules that join options; raises StartupError."""
        if not self.domain_delimiter:
            raise StartupError("domain_delimiter must not be empty; give e.g. @")
        for side in ("listen", "outgoing"):
            lowest, highest = f"ssl_{side}_min_proto_version", f"ssl_{side}_max_proto_version"
            low, high = getattr(self, lowest), getattr(self, highest)
            if high and TLS_VERSIONS.index(low) > TLS_VERSIONS.index(high):
                raise StartupError(f"{lowest} {low} is above {highest} {high}; change one of them")
        if self.ssl_passphrase_fd is not None and self.ssl_passphrase_file:
            raise StartupError(
                "ssl_passphrase_fd and ssl_passphrase_file are both given; leave one of them off"
            )

    @property
    def service(self) -> MailService:
        """The protocol as this site offers it."""
        return SERVICES[self.protocol or "POP3"]

    @property
    def tls(self) -> SSLMode:
        """How TLS is used: as ssl_mode says, else from the first byte where the port is for it."""
        use = TLSUse.SSL if self.service.tls else TLSUse.NONE
        return self.ssl_mode or SSLMode(use, use)

    @property
    def default_port(self) -> str:
        """The port of real servers where neither popmap nor option gives one."""
        return self.outgoing_port or str(self.service.port)

    @property
    def capability_option(self) -> str:
        """The option that says what clients of this protocol are told before they log in."""
        if self.service.name == "MANAGESIEVE":
            return "managesieve_capability"
        return "imap_capability" if self.service.name.startswith("IMAP") else "pop_capability"

    @property
    def own_capability(self) -> str:
        """What clients of this protocol are told before they log in."""
        announced: str = getattr(self, self.capability_option)
        return announced

    @property
    def foreground(self) -> bool:
        """Whether perdition stays on its terminal."""
        return self.no_daemon or self.log_facility in ("-", "+")

    @property
    def answers_as_server(self) -> bool:
        """Whether clients get the real server's own answer to a login."""
        return self.server_resp_line or self.server_ok_line

    @property
    def logs_connections(self) -> bool:
        """Whether what is said before a login's end is logged."""
        return self.debug and self.connection_logging

    def logs_password(self, ok: bool) -> bool:
        """Whether the password of a login that was ok, or not, is logged."""
        wanted = LogPassword.OK if ok else LogPassword.FAIL
        return self.debug and self.log_passwd in (wanted, LogPassword.ALWAYS)

    def logged(self) -> str:
        """Return all options as the log tells them at start."""
        return ", ".join(
            f"{name}={declared.type.show(getattr(self, name))}"
            for name, declared in OPTIONS.items()
            if declared.in_file
        )


OPTIONS = {
    name: found for name, found in sorted(vars(Options).items()) if isinstance(found, Option)
}
"""Each option, in the order of names."""

DEFAULTS = {name: option.default for name, option in OPTIONS.items()}

SHORT = {option.short: name for name, option in OPTIONS.items() if option.short}
"""The names of options by their letters."""


class GivenOptions:
    """Options as one source gives them: the command line, or the configuration file."""

    def __init__(self, where: str = "--") -> None:
        self.values: dict[str, Any] = {}
        self.where = where

    def add(self, name: str, value: str | None) -> None:
        """Note an option and its value; a flag may come without one. Raises StartupError."""
        option = OPTIONS[name]
        if value and "\0" in value:
            raise StartupError(f"{self.where}{name}: give a value without NUL")
        if value is None and option.type is not FLAG:
            raise StartupError(f"{self.where}{name}: give a value: {option.type.argument}")
        try:
            parsed = True if value is None else option.type.parse(value)
        except ValueError as error:
            raise StartupError(f"{self.where}{name} {value!r}: give {error}") from None
        if option.type.add and name in self.values:
            parsed = option.type.add(self.values[name], parsed)
        self.values[name] = parsed


def merge(command_line: GivenOptions, file: GivenOptions, protocol: str | None) -> Options:
    """Return the options that count: the command line goes before the file, both before defaults.

    ``protocol`` is what perdition's name implies. Raises StartupError.
    """
    values = {"protocol": protocol, **file.values, **command_line.values}
    options = Options(**values)
    specific = options.capability_option
    if options.capability is not None and specific not in values:
        options = options.replace(**{specific: options.capability})
    return options
