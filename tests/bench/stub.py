"""A real server that costs next to nothing: it accepts any login, and sends bytes on demand.

Run as `python3 -m tests.bench.stub`; prints the ports of its POP3 and its IMAP4 side.
"""

import selectors
import socket

BULK = bytes(1 << 20)


def answer(line: bytes, imap: bool) -> bytes:
    """Say yes to a command, whatever it is."""
    return line.split()[0] + b" OK done\r\n" if imap else b"+OK done\r\n"


def serve(client: socket.socket, imap: bool) -> bool:
    """Answer one command; tell whether the client stays. `XBIG n` brings n MiB."""
    line = client.recv(4096)
    if not line:
        return False
    if b"XBIG" in line:
        client.setblocking(True)
        for _ in range(int(line.split()[-1])):
            client.sendall(BULK)
        client.setblocking(False)
    client.send(answer(line, imap))
    return not (b"QUIT" in line or b"LOGOUT" in line)


def main() -> None:
    """Serve until killed."""
    selector = selectors.DefaultSelector()
    ports = []
    for imap in (False, True):
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, (True, imap))
        ports.append(listener.getsockname()[1])
    print(*ports, flush=True)
    while True:
        for key, _ in selector.select():
            sock, (listens, imap) = key.fileobj, key.data
            assert isinstance(sock, socket.socket)
            if listens:
                client = sock.accept()[0]
                client.setblocking(False)
                client.send(b"* OK [CAPABILITY IMAP4rev1] stub\r\n" if imap else b"+OK stub\r\n")
                selector.register(client, selectors.EVENT_READ, (False, imap))
            elif not serve(sock, imap):
                selector.unregister(sock)
                sock.close()


if __name__ == "__main__":
    main()
