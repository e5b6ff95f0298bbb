"""The sockets that a master listens on, for clients and for metrics, and the connection limit."""

import socket
from collections.abc import Iterable

from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.net.resolver import NUMERIC, Address, resolve
from perdition.options.table import Options
from perdition.privileges import Owner
from perdition.process.connection_limit import ConnectionLimit
from perdition.process.systemd import service_manager_sockets
from perdition.process.takeover import TakeoverState, by_address

BACKLOG = 4096


class ListeningSockets:
    """Sockets that were created here, or passed by a service manager or the predecessor."""

    def __init__(self, options: Options, owner: Owner, inherited: TakeoverState) -> None:
        """Open all sockets that the options ask for; raises StartupError.

        For each address that both listen on, the predecessor's socket is used, so that no client
        is refused in between. Its other sockets are closed.
        """
        manager_sockets = service_manager_sockets() or take_service_manager_sockets(inherited)
        self.from_service_manager = bool(manager_sockets)
        self.listeners = open_listeners(options, manager_sockets, inherited)
        self.metrics_socket = open_metrics_socket(options, owner, inherited)
        self.connection_limit = open_connection_limit(options.connection_limit, inherited)
        inherited.close()

    def takeover_state(self) -> TakeoverState:
        """Return what a successor receives."""
        state = TakeoverState()
        state.listeners = by_address(self.listeners)
        state.metrics_socket = self.metrics_socket
        state.connection_limit = self.connection_limit
        state.from_service_manager = self.from_service_manager
        return state

    def close(self) -> None:
        """Stop listening; the metrics process has its own copy of the metrics socket."""
        for sock in self.sockets():
            sock.close()

    def sockets(self) -> list[socket.socket]:
        return [*self.listeners, *([self.metrics_socket] if self.metrics_socket else [])]

    def descriptors(self) -> list[int]:
        """Return the descriptors that must stay open when the master detaches."""
        limit = self.connection_limit
        pipe = [limit.source, limit.sink] if limit else []
        return [*(sock.fileno() for sock in self.sockets()), *pipe]


def take_service_manager_sockets(inherited: TakeoverState) -> list[socket.socket]:
    """Take out the listeners that a service manager passed to the predecessor, if it did."""
    if not inherited.from_service_manager:
        return []
    listeners, inherited.listeners = inherited.listeners, {}
    return list(listeners.values())


def open_listeners(
    options: Options, manager_sockets: list[socket.socket], inherited: TakeoverState
) -> list[socket.socket]:
    """Return the sockets for clients; raises StartupError.

    Sockets passed by a service manager replace ``bind_address`` and ``listen_port``.
    """
    binder = Binder(options.tcp_keepalive, options.no_lookup, inherited.listeners)
    if manager_sockets:
        return [binder.prepare(sock) for sock in manager_sockets]
    port = options.listen_port or str(options.service.port)
    return binder.listen(options.bind_address, port)


def open_metrics_socket(
    options: Options, owner: Owner, inherited: TakeoverState
) -> socket.socket | None:
    """Return the socket for metrics, if the options ask for one; raises StartupError."""
    if options.metrics_address is None:
        return None
    from perdition.process import metrics_server

    sock = inherited.metrics_socket
    if sock and metrics_server.listens_at(sock, options.metrics_address):
        inherited.metrics_socket = None
        return sock
    return metrics_server.bind(options.metrics_address, owner)


def open_connection_limit(limit: int, inherited: TakeoverState) -> ConnectionLimit | None:
    """Return the connection limit, if there is one; raises StartupError.

    If the limit is unchanged, the predecessor's is used, because its sessions return their tokens.
    """
    predecessors = inherited.connection_limit
    if predecessors and predecessors.limit == limit:
        inherited.connection_limit = None
        return predecessors
    return ConnectionLimit(limit) if limit else None


class Binder:
    """Binds listening sockets, or reuses sockets that listen on the same address already.

    ``inherited`` are such sockets; those that are reused are removed from it.
    """

    def __init__(
        self, keepalive: bool, numeric: bool, inherited: dict[Address, socket.socket]
    ) -> None:
        self.keepalive = keepalive
        self.flags = socket.AI_PASSIVE | (NUMERIC if numeric else 0)
        self.inherited = inherited

    def listen(self, endpoints: Iterable[Endpoint], default_port: str) -> list[socket.socket]:
        """Listen on each endpoint; without any, on all addresses of both families.

        Raises StartupError that names the address and the reason.
        """
        sockets: list[socket.socket] = []
        for endpoint in endpoints:
            wanted = Endpoint(endpoint.host, endpoint.port or default_port)
            try:
                addresses = resolve(wanted, self.flags)
            except OSError as error:
                raise StartupError(
                    f"bind_address {wanted}: {error.strerror}; "
                    "expected an address and a port of this host"
                ) from error
            sockets += map(self.bind, addresses)
        return sockets or self.listen_everywhere(default_port)

    def listen_everywhere(self, port: str) -> list[socket.socket]:
        """Listen on a port of all IPv4 and, if the system has it, all IPv6 addresses."""
        try:
            [address, *_] = resolve(Endpoint("0.0.0.0", port), self.flags)
        except OSError as error:
            raise StartupError(
                f"listen_port {port}: {error.strerror}; expected a port number or name"
            ) from error
        sockets = [self.bind(address)]
        if socket.has_dualstack_ipv6():
            number = sockets[0].getsockname()[1]
            sockets.append(self.bind(Address(socket.AF_INET6, ("::", number, 0, 0))))
        return sockets

    def bind(self, address: Address) -> socket.socket:
        """Return a socket that listens on an address; raises StartupError."""
        if sock := self.inherited.pop(address, None):
            return self.prepare(sock)
        sock = self.prepare(socket.socket(address.family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address.sockaddr)
            sock.listen(BACKLOG)
        except OSError as error:
            host, port = address.sockaddr[:2]
            raise StartupError(
                f"cannot listen on {host}:{port}: {error.strerror}; "
                "change bind_address or listen_port, or stop the process that listens there"
            ) from error
        return sock

    def prepare(self, sock: socket.socket) -> socket.socket:
        """Set the options that accepted sockets inherit; return the socket."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, self.keepalive)
        return sock
