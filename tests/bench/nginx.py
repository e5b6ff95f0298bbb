"""nginx's mail proxy before the same stub, to compare with."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import which
from threading import Thread

from tests.support import processes
from tests.support.wait import DEADLINE, until

MODULE = Path("/usr/lib/nginx/modules/ngx_mail_module.so")

CONFIGURATION = """\
load_module {module};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
worker_processes 1;
events {{ worker_connections 4096; }}
mail {{
    auth_http 127.0.0.1:{auth}/;
    proxy_pass_error_message on;
    server {{ listen 127.0.0.1:{plain}; protocol pop3; }}
    server {{
        listen 127.0.0.1:{tls} ssl;
        protocol pop3;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
    }}
}}
"""


def missing() -> bool:
    """Tell whether there is no nginx with its mail module here."""
    return not (which("nginx") and MODULE.exists())


def authority(port: int) -> HTTPServer:
    """Return the HTTP server that tells nginx where every user's real server is."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Auth-Status", "OK")
            self.send_header("Auth-Server", "127.0.0.1")
            self.send_header("Auth-Port", str(port))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return HTTPServer(("127.0.0.1", 0), Answer)


@contextmanager
def running(folder: Path, server: int, certificate: Path, key: Path) -> Iterator[tuple[int, ...]]:
    """Run nginx; gives its process id, its plain port and its TLS port."""
    auth = authority(server)
    Thread(target=auth.serve_forever, daemon=True).start()
    plain, tls = processes.free_ports(2)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(
            module=MODULE,
            folder=folder,
            auth=auth.server_address[1],
            plain=plain,
            tls=tls,
            certificate=certificate,
            key=key,
        )
    )
    with subprocess.Popen(["nginx", "-c", configuration], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: processes.listening(tls), "nginx listens")
            yield process.pid, plain, tls
        finally:
            process.terminate()
            process.wait(DEADLINE)
            auth.shutdown()
