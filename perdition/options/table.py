"""Every option, declared once.

The command line, the configuration file, ``--help``, the options logged at startup, the sample
configuration and the manual's OPTIONS section are all generated from the attributes of ``Options``.
"""

import grp
from enum import Enum
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


class Group(Enum):
    """What options are about; ``--help`` has the groups in this order, under these headings."""

    START = "Start and modes"
    PROTOCOL = "Protocol"
    LOGIN = "User names and passwords"
    POPMAP = "Popmap and real servers"
    TLS = "TLS"
    LIMITS = "Limits and timeouts"
    LOG = "Log and metrics"


class Option(NamedTuple):
    """An option's declaration, except for its name."""

    group: Group
    type: OptionType[Any]
    default: Any
    description: str
    """What the option does; the manual has all of it, ``--help`` the first sentence."""
    short: str = ""
    derived: str = ""
    """A description of the default, if it depends on other things."""
    restart: bool = False
    """Whether a change takes effect only after a restart."""
    reread: bool = False
    """Whether SIGHUP rereads the named file, although naming another file needs a restart."""
    in_file: bool = True
    """Whether the configuration file may set the option; otherwise it is ignored there."""


def option(group: Group, kind: OptionType[T], default: T, description: str, **more: Any) -> T:
    """Declare an option in ``Options``; instances have a value of type T in its place."""
    declared: Any = Option(group, kind, default, description, **more)
    value: T = declared
    return value


def default_group() -> str:
    """Return the group of the user nobody, whose name depends on the system."""
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
"""VERSION is 1.0 as RFC 5804 requires; the number in the manual of 2.2 breaks clients."""


class Options:
    """The values of all options, immutable; the manual describes them."""

    add_domain: States = option(
        Group.LOGIN,
        STATES_AND_DEPTH,
        NO_STATES,
        "Append a domain to user names that have none. The states in which to do so are "
        "servername_lookup (for the popmap lookup; has no effect with "
        "client_server_specification), local_authentication, remote_login, or all. The domain is "
        "explicit_domain if set, otherwise the host name of the IP address that the client "
        "connected to, without its first STRIP_DEPTH labels (default 1).",
        short="A",
    )
    authenticate_timeout: int = option(
        Group.LIMITS,
        SECONDS,
        1800,
        "Close connections that are silent for SECONDS before login. A real server that sends "
        "nothing for SECONDS during a login fails that login. 0: never.",
    )
    authenticate_in: bool = option(
        Group.LOGIN,
        FLAG,
        False,
        "Check passwords with PAM before connecting to real servers.",
        short="a",
        restart=True,
    )
    no_bind_banner: bool = option(
        Group.PROTOCOL,
        FLAG,
        False,
        "Use the system's host name in the greeting. Without this option it is the host name of "
        "the address that the client connected to.",
        short="B",
    )
    bind_address: tuple[Endpoint, ...] = option(
        Group.PROTOCOL,
        ENDPOINTS,
        (),
        "Listen only on these addresses. They are host names, IPv4 addresses, or IPv6 addresses "
        "in brackets, each with a port unless it is listen_port. Empty: all addresses.",
        short="b",
        restart=True,
    )
    connection_logging: bool = option(
        Group.LOG,
        FLAG,
        False,
        "Log the conversations before login (with debug). These are those with clients and with "
        "real servers. Passwords are masked.",
        short="C",
    )
    connect_relog: int = option(
        Group.LOG,
        SECONDS,
        300,
        "Repeat a session's Auth line every SECONDS. POP-before-SMTP relays need this. 0: never.",
    )
    connect_timeout: int = option(
        Group.LIMITS,
        TIME_LIMIT,
        10,
        "Maximum time for connecting to an address of a real server. This includes the server's "
        "greeting.",
    )
    client_server_specification: bool = option(
        Group.POPMAP,
        FLAG,
        False,
        "Let clients choose their real server. They log in as user<delimiter>server[:port]; the "
        "delimiter is domain_delimiter.",
        short="c",
    )
    domain_delimiter: str = option(
        Group.LOGIN,
        STRING,
        "@",
        "The separator between user and domain or server. It has one or more characters; its last "
        "occurrence counts.",
        short="D",
    )
    debug: bool = option(Group.LOG, FLAG, False, "Log debugging information.", short="d")
    drain_timeout: int = option(
        Group.LIMITS,
        SECONDS,
        0,
        "When stopping, wait up to SECONDS for open sessions to end. This applies to SIGTERM and "
        "SIGINT; SIGQUIT waits without limit.",
    )
    explicit_domain: str | None = option(
        Group.LOGIN,
        STRING,
        None,
        "The domain that add_domain appends. STRIP_DEPTH does not apply to it.",
        short="e",
    )
    log_facility: str = option(
        Group.LOG,
        text("FACILITY"),
        "mail",
        "The log: a syslog facility, a file, - (stdout) or + (stderr). A file is given by its "
        "absolute path. With - or +, perdition stays in the foreground.",
        short="F",
        restart=True,
    )
    config_file: str | None = option(
        Group.START,
        FILE,
        None,
        "The configuration file. The command line takes precedence. Empty: none.",
        short="f",
        derived="the first existing file of <basename>.conf, perdition.<protocol>.conf and "
        "perdition.conf in /etc/perdition",
        in_file=False,
    )
    group: str = option(
        Group.START,
        text("GROUP"),
        default_group(),
        "The group to run as, by name or number.",
        short="g",
        derived="nobody, or nogroup if there is no group nobody",
        restart=True,
    )
    help: bool = option(
        Group.START, FLAG, False, "Show this list and exit.", short="h", in_file=False
    )
    version: bool = option(
        Group.START, FLAG, False, "Show name and version and exit.", in_file=False
    )
    capability: str | None = option(
        Group.PROTOCOL,
        STRING,
        None,
        "Deprecated name of the protocol's own capability option. It sets pop_capability, "
        "imap_capability or managesieve_capability; that option overrides this one.",
        short="I",
    )
    imap_capability: str = option(
        Group.PROTOCOL,
        STRING,
        "IMAP4 IMAP4REV1",
        "The capabilities announced to IMAP clients before login. They are separated by spaces. "
        "STARTTLS and LOGINDISABLED are added and removed as needed. LITERAL+ may be added if all "
        "real servers support it. testssl.sh and some clients need IMAP4rev1, spelled like that, "
        'e.g. "IMAP4rev1 ID".',
    )
    inetd_mode: bool = option(
        Group.START,
        FLAG,
        False,
        "Serve one client on standard input and output.",
        short="i",
        restart=True,
    )
    connections_per_client: int = option(
        Group.LIMITS,
        COUNT,
        0,
        "Maximum number of simultaneous connections per address. All IPv6 addresses of a /48 count "
        "as one. Any further connection is closed immediately. 0: unlimited.",
        restart=True,
    )
    connection_limit: int = option(
        Group.LIMITS,
        COUNT,
        0,
        "Maximum number of simultaneous connections. Any further connection is closed "
        "immediately. 0: unlimited.",
        short="L",
        restart=True,
    )
    listen_port: str = option(
        Group.PROTOCOL,
        PORT,
        "",
        "The port to listen on, by number or service name.",
        short="l",
        derived="110, 995, 143, 993 or 4190, depending on the protocol",
        restart=True,
    )
    login_disabled: bool = option(
        Group.LOGIN,
        FLAG,
        False,
        "Refuse all logins. IMAP clients see the capability LOGINDISABLED.",
    )
    login_deadline: int = option(
        Group.LIMITS,
        SECONDS,
        180,
        "Close connections that are not logged in after SECONDS. This applies whatever the client "
        "sends. 0: no limit.",
    )
    login_timeout: int = option(
        Group.LIMITS,
        SECONDS,
        60,
        "Fail logins that take longer than SECONDS. This is the time that popmap, PAM and real "
        "server take together; the failure is temporary. 0: no limit.",
    )
    max_login_attempts: int = option(
        Group.LIMITS,
        COUNT,
        0,
        "Close a client's connection after LIMIT failed logins. 0: unlimited.",
    )
    log_passwd: LogPassword = option(
        Group.LOG,
        LOG_PASSWORD,
        LogPassword.NEVER,
        "Log passwords (with debug): fail, ok, always or never. fail and ok mean those of failed "
        "and of successful logins.",
    )
    lookup: str | None = option(
        Group.START,
        text("USER[,USER...]"),
        None,
        "Show the real server of each user and exit. Also shown are the keys that are looked up "
        "and the popmap's answers. The exit status is 0 if every user has a server, 1 if a user "
        "has none, 2 if the popmap is unavailable.",
        in_file=False,
    )
    lower_case: States = option(
        Group.LOGIN,
        STATES,
        NO_STATES,
        "Convert user names to lower case. For the states see add_domain.",
    )
    managesieve_capability: str = option(
        Group.PROTOCOL,
        STRING,
        MANAGESIEVE_CAPABILITY,
        "The capabilities announced to ManageSieve clients. They are quoted names, each with a "
        "quoted value if it has one, separated by two spaces. STARTTLS is added and removed as "
        "needed.",
    )
    map_library: str = option(
        Group.POPMAP,
        text("FILENAME"),
        "/usr/lib/libperditiondb_gdbm.so.0",
        "The kind of popmap. It is one of gdbm, bdb, cdb, sqlite, posix_regex, mysql, postgresql, "
        "odbc, ldap, redis, http, daemon, nis, or the file name of the C library that perdition "
        "2.2 used for it. Also the path of a custom C library, or a kind that a Python package "
        "provides. Empty: no popmap.",
        short="M",
    )
    map_library_opt: str = option(
        Group.POPMAP,
        MAP_OPTION,
        "",
        "The argument of the popmap; see perditiondb(5). In place of a password it may have @ and "
        "the absolute path of a file whose first line is the password.",
        short="m",
    )
    map_cache: int = option(
        Group.POPMAP,
        SECONDS,
        0,
        "Cache popmap answers for SECONDS. While the popmap is unavailable, older answers are "
        "used. SIGHUP clears the cache. 0: no cache.",
    )
    map_timeout: int = option(
        Group.POPMAP,
        TIME_LIMIT,
        10,
        "Wait up to SECONDS for the popmap's answer. After that the login fails temporarily. Does "
        "not apply to local files.",
    )
    metrics_address: Endpoint | str | None = option(
        Group.LOG,
        METRICS_ADDRESS,
        None,
        "Serve Prometheus metrics over HTTP here. They are numbers of sessions, logins and their "
        "results, bytes and times. On a Unix socket, only the user and the group that perdition "
        "runs as can connect. Empty: no metrics.",
        restart=True,
    )
    no_daemon: bool = option(Group.START, FLAG, False, "Stay in the foreground.", restart=True)
    no_lookup: bool = option(
        Group.POPMAP,
        FLAG,
        False,
        "Do not resolve host names or service names. Popmap and options must use IP addresses and "
        "port numbers. Implies no_bind_banner.",
        short="n",
        restart=True,
    )
    ok_line: str = option(
        Group.PROTOCOL,
        STRING,
        "You are so in",
        "The text sent to clients after a successful login.",
        short="O",
    )
    server_ok_line: bool = option(
        Group.PROTOCOL, FLAG, False, "Deprecated name of server_resp_line."
    )
    server_resp_line: bool = option(
        Group.PROTOCOL,
        FLAG,
        False,
        "Send clients the real server's own response to the login. ok_line is not used.",
        short="o",
    )
    protocol: str | None = option(
        Group.PROTOCOL,
        PROTOCOL,
        None,
        "The protocol: POP3, POP3S, IMAP4, IMAP4S or MANAGESIEVE.",
        short="P",
        derived="according to the name that perdition is called by, otherwise POP3",
        restart=True,
    )
    outgoing_port: str = option(
        Group.POPMAP,
        PORT,
        "",
        "The real servers' port. The popmap, outgoing_server or the client may specify another.",
        short="p",
        derived="as for listen_port",
    )
    outgoing_server: tuple[Endpoint, ...] = option(
        Group.POPMAP,
        ENDPOINTS,
        (),
        "Servers for users who are not in the popmap. They are used round robin; one that cannot "
        "be reached is skipped.",
        short="s",
    )
    pid_file: str | None = option(
        Group.START,
        PATH,
        None,
        "The file for the master's process ID. A missing directory is created. Empty: none.",
        derived="/var/run/<basename>/<basename>.pid",
        restart=True,
    )
    pop_capability: str = option(
        Group.PROTOCOL,
        STRING,
        "UIDL.USER",
        "The capabilities announced to POP3 clients before login. They are separated by dots. "
        "STLS is added and removed as needed.",
    )
    strip_domain: States = option(
        Group.LOGIN,
        STATES,
        NO_STATES,
        "Remove the domain, and the delimiter, from user names. For the states see add_domain.",
        short="S",
    )
    takeover: bool = option(
        Group.START,
        FLAG,
        False,
        "Replace a running perdition without interrupting service. It is the one that uses the "
        "same pid_file: listen on its sockets and let it serve its open sessions until they end, "
        "or for its drain_timeout if that is not 0. If the new perdition cannot start, the "
        "running one continues unaffected.",
        in_file=False,
    )
    timeout: int = option(
        Group.LIMITS,
        SECONDS,
        1800,
        "Close sessions without data transfer for SECONDS. 0: never.",
        short="t",
    )
    tcp_keepalive: bool = option(
        Group.LIMITS,
        FLAG,
        False,
        "Enable TCP keepalive with clients and real servers.",
        restart=True,
    )
    username: str = option(
        Group.START,
        text("USERNAME"),
        "nobody",
        "The user to run as, by name or number.",
        short="u",
        restart=True,
    )
    username_from_database: bool = option(
        Group.POPMAP,
        FLAG,
        False,
        "Log in with the user name in the popmap's answer. If it has none, the client's is used.",
        short="U",
    )
    quiet: bool = option(Group.LOG, FLAG, False, "Log only errors; debug overrides it.", short="q")
    query_key: tuple[str, ...] = option(
        Group.POPMAP,
        FORMATS,
        (),
        "The keys to look up in the popmap instead of the user name. They are looked up in this "
        "order until one is found; in them, \\U is the user name, \\u its part before the domain "
        "delimiter, \\D the delimiter, \\d the part after it, \\i and \\p the client's IP address "
        "and port, \\I and \\P those it connected to, \\\\ a backslash.",
    )
    workers: int = option(
        Group.START,
        WORKERS,
        0,
        "The number of worker processes. They serve the clients.",
        derived="the number of processors",
        restart=True,
    )

    ssl_mode: SSLMode | None = option(
        Group.TLS,
        SSL_MODE,
        None,
        "Where to use TLS. ssl_* is from the start of the connection, tls_* after STARTTLS or "
        "STLS; *_listen with clients, *_outgoing with real servers, *_all with both. With "
        "*_force, logins without TLS are refused (listen) or not sent (outgoing). none: nowhere.",
        derived="ssl_all for POP3S and IMAP4S, otherwise none",
        restart=True,
    )
    ssl_ca_accept_self_signed: bool = option(
        Group.TLS,
        FLAG,
        False,
        "Accept real servers' chains that end in an unknown root. A chain without its "
        "self-signed root is still rejected.",
        restart=True,
    )
    ssl_ca_chain_file: str | None = option(
        Group.TLS,
        FILE,
        None,
        "The CA certificates above that in ssl_cert_file, in PEM. They are those from its issuer "
        "up to the root. They are sent to clients, and replace ssl_ca_file and ssl_ca_path as "
        "trusted authorities.",
        restart=True,
    )
    ssl_ca_file: str = option(
        Group.TLS,
        FILE,
        "/etc/perdition/perdition.ca.pem",
        "The authorities trusted to sign certificates, in PEM. This applies to certificates of "
        "real servers and clients.",
        restart=True,
    )
    ssl_ca_path: str = option(
        Group.TLS,
        text("PATHNAME", parse_path),
        "/etc/perdition/perdition.ca/",
        "A directory of such authorities, prepared by openssl rehash.",
        restart=True,
    )
    ssl_cert_accept_expired: bool = option(
        Group.TLS, FLAG, False, "Accept expired certificates of real servers.", restart=True
    )
    ssl_cert_accept_not_yet_valid: bool = option(
        Group.TLS,
        FLAG,
        False,
        "Accept certificates of real servers before they become valid.",
        restart=True,
    )
    ssl_cert_accept_self_signed: bool = option(
        Group.TLS,
        FLAG,
        False,
        "Accept self-signed certificates of real servers.",
        restart=True,
    )
    ssl_cert_file: tuple[str, ...] = option(
        Group.TLS,
        FILES,
        ("/etc/perdition/perdition.crt.pem",),
        "The certificate for clients, in PEM. Its intermediate certificates follow it. May be "
        "given several times, each with its ssl_key_file: the certificate is chosen by the host "
        "name that the client requests (SNI), otherwise the first one is used.",
        restart=True,
        reread=True,
    )
    ssl_cert_verify_depth: int = option(
        Group.TLS,
        DEPTH,
        9,
        "Maximum length of a real server's certificate chain. The server's own certificate does "
        "not count.",
        restart=True,
    )
    ssl_dh_params_file: str | None = option(
        Group.TLS,
        FILE,
        None,
        "Diffie-Hellman parameters, in PEM.",
        derived="those in ssl_cert_file, if any",
        restart=True,
        reread=True,
    )
    ssl_key_file: tuple[str, ...] = option(
        Group.TLS,
        FILES,
        ("/etc/perdition/perdition.key.pem",),
        "The private key of ssl_cert_file's certificate, in PEM.",
        restart=True,
        reread=True,
    )
    ssl_listen_ciphers: str = option(
        Group.TLS,
        STRING,
        "",
        "The ciphers for clients, as in ciphers(1). Empty: OpenSSL's default.",
        restart=True,
    )
    ssl_listen_compression: bool = option(
        Group.TLS, FLAG, False, "Allow TLS compression with clients.", restart=True
    )
    ssl_listen_max_proto_version: str = option(
        Group.TLS,
        VERSION,
        "",
        "The highest TLS version for clients. Empty: OpenSSL's default.",
        restart=True,
    )
    ssl_listen_min_proto_version: str = option(
        Group.TLS, LOWEST_VERSION, "tlsv1", "The lowest TLS version for clients.", restart=True
    )
    ssl_no_cert_verify: bool = option(
        Group.TLS,
        FLAG,
        False,
        "Do not verify any certificates of real servers and clients.",
        restart=True,
    )
    ssl_no_cipher_server_preference: bool = option(
        Group.TLS,
        FLAG,
        False,
        "Use the client's order of preference for ciphers.",
        restart=True,
    )
    ssl_no_client_cert_verify: bool = option(
        Group.TLS, FLAG, False, "Do not verify certificates of clients.", restart=True
    )
    ssl_no_cn_verify: bool = option(
        Group.TLS,
        FLAG,
        False,
        "Do not verify the host name in real servers' certificates. A certificate must otherwise "
        "match the name that was used to connect.",
        restart=True,
    )
    ssl_outgoing_ciphers: str = option(
        Group.TLS,
        STRING,
        "",
        "The ciphers for real servers, as in ciphers(1). Empty: OpenSSL's default.",
        restart=True,
    )
    ssl_outgoing_compression: bool = option(
        Group.TLS, FLAG, False, "Allow TLS compression with real servers.", restart=True
    )
    ssl_outgoing_max_proto_version: str = option(
        Group.TLS,
        VERSION,
        "",
        "The highest TLS version for real servers. Empty: OpenSSL's default.",
        restart=True,
    )
    ssl_outgoing_min_proto_version: str = option(
        Group.TLS, LOWEST_VERSION, "tlsv1", "The lowest TLS version for real servers.", restart=True
    )
    ssl_passphrase_fd: int | None = option(
        Group.TLS,
        DESCRIPTOR,
        None,
        "The descriptor to read ssl_key_file's passphrase from. The passphrase is its first line.",
        derived="0; if that is a terminal, perdition prompts for the passphrase",
        restart=True,
    )
    ssl_passphrase_file: str | None = option(
        Group.TLS,
        FILE,
        None,
        "A file whose first line is the passphrase of ssl_key_file.",
        restart=True,
    )

    def __init__(self, **given: Any) -> None:
        """Set the given options, and all others to their defaults; raises StartupError."""
        if unknown := given.keys() - OPTIONS.keys():
            raise TypeError(f"no such options: {unknown}")
        vars(self).update(DEFAULTS | given)
        self.check()

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"{name}: options are immutable; use replace() for a changed copy")

    def replace(self, **given: Any) -> "Options":
        """Return a copy with some values changed; raises StartupError."""
        return Options(**(vars(self) | given))

    def check(self) -> None:
        """Check the rules that involve several options; raises StartupError."""
        if not self.domain_delimiter:
            raise StartupError("domain_delimiter '': expected at least one character, e.g. @")
        for side in ("listen", "outgoing"):
            lowest, highest = f"ssl_{side}_min_proto_version", f"ssl_{side}_max_proto_version"
            low, high = getattr(self, lowest), getattr(self, highest)
            if high and TLS_VERSIONS.index(low) > TLS_VERSIONS.index(high):
                raise StartupError(f"{lowest} {low} is above {highest} {high}; change one of them")
        if self.ssl_passphrase_fd is not None and self.ssl_passphrase_file:
            raise StartupError(
                "ssl_passphrase_fd and ssl_passphrase_file are both given; remove one of them"
            )

    @property
    def service(self) -> MailService:
        return SERVICES[self.protocol or "POP3"]

    @property
    def tls(self) -> SSLMode:
        """How TLS is used: by ssl_mode, else TLS from the first byte for POP3S and IMAP4S."""
        use = TLSUse.SSL if self.service.tls else TLSUse.NONE
        return self.ssl_mode or SSLMode(use, use)

    @property
    def default_port(self) -> str:
        """The real servers' port, unless the popmap or an option specifies one."""
        return self.outgoing_port or str(self.service.port)

    @property
    def own_capability(self) -> str:
        """The capabilities announced before login, as configured."""
        announced: str = getattr(self, self.service.protocol.capability_option)
        return announced

    def warnings(self) -> list[str]:
        """Return warnings about what is allowed but most likely a mistake."""
        protocol = self.service.protocol
        return [
            f"{protocol.capability_option}: {announced} is announced, but refused; remove it"
            for announced in protocol.refused_mechanisms(self.own_capability)
        ]

    @property
    def foreground(self) -> bool:
        """Whether perdition stays in the foreground."""
        return self.no_daemon or self.log_facility in ("-", "+")

    @property
    def answers_as_server(self) -> bool:
        """Whether clients get the real server's own response to a login."""
        return self.server_resp_line or self.server_ok_line

    @property
    def logs_connections(self) -> bool:
        """Whether the conversations until login are logged."""
        return self.debug and self.connection_logging

    def logs_password(self, ok: bool) -> bool:
        """Whether the password of a successful (``ok``) or failed login is logged."""
        wanted = LogPassword.OK if ok else LogPassword.FAIL
        return self.debug and self.log_passwd in (wanted, LogPassword.ALWAYS)

    def logged(self) -> str:
        """Return all options as they are logged at startup."""
        return ", ".join(
            f"{name}={declared.type.show(getattr(self, name))}"
            for name, declared in OPTIONS.items()
            if declared.in_file
        )


OPTIONS = {
    name: declared
    for name, declared in sorted(vars(Options).items())
    if isinstance(declared, Option)
}
"""All options, sorted by name."""

DEFAULTS = {name: option.default for name, option in OPTIONS.items()}

SHORT = {option.short: name for name, option in OPTIONS.items() if option.short}
"""The names of options by their short names."""


class GivenOptions:
    """The options of one source: the command line or the configuration file.

    ``where`` precedes an option's name in error messages.
    """

    def __init__(self, where: str = "--") -> None:
        self.values: dict[str, Any] = {}
        self.where = where

    def add(self, name: str, value: str | None) -> None:
        """Add an option; ``value`` is None if it has none, as for a flag. Raises StartupError."""
        option = OPTIONS[name]
        if value and "\0" in value:
            raise StartupError(f"{self.where}{name}: the value contains a NUL character; remove it")
        if value is None and option.type is not FLAG:
            raise StartupError(f"{self.where}{name}: expected a value: {option.type.argument}")
        try:
            parsed = True if value is None else option.type.parse(value)
        except ValueError as error:
            raise StartupError(f"{self.where}{name} {value!r}: expected {error}") from None
        if option.type.add and name in self.values:
            parsed = option.type.add(self.values[name], parsed)
        self.values[name] = parsed


def merge(command_line: GivenOptions, file: GivenOptions, protocol: str | None) -> Options:
    """Return the effective options: the command line overrides the file, both override defaults.

    ``protocol`` is the one that perdition's name implies. Raises StartupError.
    """
    values = {"protocol": protocol, **file.values, **command_line.values}
    options = Options(**values)
    specific = options.service.protocol.capability_option
    if options.capability is not None and specific not in values:
        options = options.replace(**{specific: options.capability})
    return options
