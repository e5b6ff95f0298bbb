"""Clients that only cause work: logins, idle sessions, bulk transfers. All on loopback."""

import socket
import ssl
from collections.abc import Callable
from threading import Thread

THREADS = 8
MIB = 1 << 20

Connect = Callable[[], socket.socket]


def plain(port: int) -> Connect:
    """Return what connects to a port."""
    return lambda: socket.create_connection(("127.0.0.1", port), 30)


def tls(port: int) -> Connect:
    """Return what connects to a port by TLS."""
    context = tls_context()
    return lambda: context.wrap_socket(plain(port)())


def tls_context() -> ssl.SSLContext:
    """Return TLS of a client to whom it does not matter whom it finds."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def log_in(connect: Connect, imap: bool = False) -> socket.socket:
    """Return a connection that is logged in."""
    client = connect()
    client.recv(4096)
    for command in (b"a LOGIN joe pw\r\n",) if imap else (b"USER joe\r\n", b"PASS pw\r\n"):
        client.sendall(command)
        answer = client.recv(4096)
    assert b"OK" in answer, answer
    return client


def log_in_and_out(connect: Connect, imap: bool, times: int) -> None:
    """Log in and out again, so many times."""
    for _ in range(times):
        client = log_in(connect, imap)
        client.sendall(b"b LOGOUT\r\n" if imap else b"QUIT\r\n")
        while client.recv(4096):
            pass
        client.close()


def logins(connect: Connect, imap: bool, count: int) -> None:
    """Log in and out so many times in all, several at once."""
    threads = [
        Thread(target=log_in_and_out, args=(connect, imap, count // THREADS))
        for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fetch(connect: Connect, mib: int) -> None:
    """Log in by POP3 and read so many MiB."""
    client = log_in(connect)
    client.sendall(b"XBIG %d\r\n" % mib)
    buffer = bytearray(MIB)
    left = mib * MIB
    while left > 0:
        left -= client.recv_into(buffer)
    client.close()
