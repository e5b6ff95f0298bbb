"""The Unix socket of ``metrics_address``."""

import os
import socket
from pathlib import Path

import pytest

from perdition.privileges import Owner, bind_with_umask
from perdition.process import metrics_server

NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")
def test_link_in_place_of_the_socket_gives_no_file_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of the owner may replace the socket in their directory as soon as it exists."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    directory, secret = tmp_path / "run", tmp_path / "secret"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    secret.write_text("of root")
    path = directory / "metrics"

    def bind_and_replace(sock: socket.socket, path: str, mask: int) -> None:
        bind_with_umask(sock, path, mask)
        user = os.geteuid()
        os.seteuid(0)  # the kernel may restrict links: fs.protected_hardlinks
        os.unlink(path)
        os.link(secret, path)
        os.seteuid(user)

    monkeypatch.setattr(metrics_server, "bind_with_umask", bind_and_replace)
    metrics_server.bind_path(str(path), Owner(NOBODY, NOBODY)).close()
    assert secret.stat().st_uid == 0
    path.unlink()

    monkeypatch.undo()
    metrics_server.bind_path(str(path), Owner(NOBODY, NOBODY)).close()
    assert path.is_socket()
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)
