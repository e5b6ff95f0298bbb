"""The image and the example of packaging/container, built on a Debian 13 and run by podman."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container_host import ContainerHost
from tests.support.folders import ROOT, public_folder
from tests.support.wait import DEADLINE, until

BASE = "docker.io/library/debian:13-slim"
PASSWORDS = {"joe": "secret-of-joe", "ann": "secret-of-ann"}
EXAMPLE = "packaging/container/example"
COMPOSE = (ROOT / "packaging/container/compose.yaml").read_text()
PUBLISHED = dict(re.findall(r"command: \[(perdition\.\w+).*\n    ports: \[\"(\d+):", COMPOSE))
"""The ports of the example by the names of the instances."""

SCHEMES = {"imap": "perdition.imap4", "imaps": "perdition.imaps", "pop3": "perdition.pop3"}

NEEDED = ("podman", "podman-compose", "crun", "mmdebstrap", "curl", "openssl", "sieve-connect")


@pytest.fixture(scope="module")
def host() -> Iterator[ContainerHost]:
    """A host with both images, built from a copy of the checkout's directories in ``context``.

    The base image is a Debian from its archive: a registry may be out of reach.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can have namespaces")
    if missing := [program for program in NEEDED if not shutil.which(program)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with public_folder() as folder, ContainerHost(folder) as host:
        base = folder / "base.tar"
        host.build("mmdebstrap", "--variant=minbase", "trixie", base, directory=folder)
        host.run("podman", "import", base, BASE)
        base.unlink()
        context = host.folder / "context"
        for name in ("bin", "initscripts", "man", "packaging", "perdition"):
            shutil.copytree(ROOT / name, context / name, symlinks=True)
        make_certificate(host, context / EXAMPLE)
        host.build("podman-compose", "build", directory=context / "packaging/container")
        yield host


def make_certificate(host: ContainerHost, directory: Path) -> None:
    """Run the commands at the beginning of compose.yaml."""
    lines = COMPOSE.partition("openssl ")[2].partition("cd ..")[0]
    host.run("sh", "-ec", "openssl " + re.sub(r"(?m)^#", "", lines), directory=directory)


def test_example_logs_users_in(host: ContainerHost) -> None:
    directory = host.folder / "context" / "packaging/container"
    host.run("podman-compose", "up", "--detach", directory=directory)
    try:
        for user, password in PASSWORDS.items():
            for scheme, name in SCHEMES.items():
                url = f"{scheme}://localhost:{PUBLISHED[name]}/"
                trust = f"--cacert {directory}/example/perdition.crt.pem"
                curl = f"curl --silent --max-time 5 --user {user}:{password} {trust} {url}"
                # The containers may not serve yet.
                host.run("timeout", f"{DEADLINE}", "sh", "-c", f"until {curl}; do sleep 0.2; done")
            sieve = f"sieve-connect --nosrv --clearchan --server localhost --user {user}"
            port = PUBLISHED["perdition.managesieve"]
            host.run("sh", "-c", f"echo {password} | {sieve} --port {port} --passwordfd 0 --list")
    finally:
        host.run("podman-compose", "logs", directory=directory)
        host.run("podman-compose", "down", directory=directory)


def start(host: ContainerHost, name: str) -> float:
    """Start an instance as compose.yaml does, and return the seconds until it is healthy."""
    options = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
    began = time.monotonic()
    host.run(
        *("podman", "run", "--detach", "--name", name, "--network=host", *options),
        *("--volume", f"{host.folder / 'context' / EXAMPLE}:/etc/perdition:ro", "perdition", name),
        *(("--ssl_mode", "ssl_listen") if name.endswith("s") else ()),
    )
    until(lambda: host.succeeds("podman", "exec", name, "/usr/share/perdition/entry"), "health")
    return time.monotonic() - began


@pytest.mark.parametrize("name", ["perdition.imap4", "perdition.pop3s", "perdition.managesieve"])
def test_instance_is_healthy_unprivileged_and_stops(host: ContainerHost, name: str) -> None:
    seconds = start(host, name)
    print(f"{name} was healthy {seconds:.1f} s after podman run")
    assert host.run("podman", "exec", name, "id", "-u") == "10001\n"
    assert not host.succeeds("podman", "exec", name, "touch", "/usr/file")
    host.run("podman", "stop", name)
    assert "perdition has stopped" in host.run("podman", "logs", name)
    assert host.run("podman", "inspect", "--format", "{{.State.ExitCode}}", name) == "0\n"
    host.run("podman", "rm", name)


def test_instance_that_does_not_serve_is_unhealthy(host: ContainerHost) -> None:
    host.run("podman", "run", "--detach", "--name", "idle", "perdition", "sleep", "1000")
    assert not host.succeeds("podman", "exec", "idle", "/usr/share/perdition/entry")
    host.run("podman", "rm", "--force", "idle")


def test_image_is_small(host: ContainerHost) -> None:
    """It adds Python, its modules and perdition to a Debian of some 120 MB."""
    sizes = [
        int(host.run("podman", "image", "inspect", "--format", "{{.Size}}", image))
        for image in (BASE, "localhost/perdition")
    ]
    print(f"image of {sizes[1] / 1e6:.0f} MB on a base of {sizes[0] / 1e6:.0f} MB")
    assert sizes[1] - sizes[0] < 80e6


def test_reload_in_a_container(host: ContainerHost) -> None:
    start(host, "perdition.imap4")
    host.run("podman", "kill", "--signal", "HUP", "perdition.imap4")
    until(
        lambda: "configuration reloaded" in host.run("podman", "logs", "perdition.imap4"),
        "the log has the reload",
    )
    host.run("podman", "rm", "--force", "perdition.imap4")
