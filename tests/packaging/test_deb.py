"""The Debian packages, from their build to their purge, and over Debian's own perdition 2.2."""

import re
from pathlib import Path

import pytest

from perdition.options.configuration import NAMES as ALL_NAMES
from tests.packaging.conftest import NEWER, OLD, have, need_root
from tests.packaging.steps import (
    all_run,
    bring,
    build,
    configure,
    fate_of_session,
    log_in,
    run,
    set_up_site,
    stay_logged_in,
)
from tests.support.booted import BootedMachine
from tests.support.machine import Machine
from tests.support.wait import until

APT = "apt-get --yes --no-install-recommends -o Dpkg::Use-Pty=0"
LDAP = "IMAP4_FLAGS=-M/usr/lib/x86_64-linux-gnu/libperditiondb_ldap.so.0"
MAPS = ("ldap", "mysql", "odbc", "postgresql")
ITS_FILES = "/etc/default/perdition /etc/pam.d/perdition $(find /etc/perdition ! -type d | sort)"


def files(machine: Machine) -> set[str]:
    """All files there, but for the records that the system itself keeps of what was done."""
    records = "/proc /dev /tmp /var/lib/dpkg /var/lib/apt /var/cache /var/log"
    left_out = " -o ".join(f"-path {path}" for path in records.split())
    return set(machine.does(f"find / \\( {left_out} \\) -prune -o -print").splitlines())


@pytest.mark.own_system
def test_build_is_reproducible(debs: list[Path], folder: Path) -> None:
    again = build("deb", folder)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in debs]


@pytest.mark.own_system
def test_lintian_says_nothing(debs: list[Path]) -> None:
    have("lintian")
    assert not run("lintian", "--allow-root", "--pedantic", *map(str, debs))


def test_fresh_install_until_purge(fresh: Machine) -> None:
    fresh.does(f"{APT} install /ours/perdition_*.deb && dpkg --purge perdition")
    before = files(fresh)
    fresh.does("dpkg --install /ours/perdition_*.deb")
    assert "perdition.managesieve is running" in fresh.does("/etc/init.d/perdition status")
    for name in ALL_NAMES:
        assert fresh.does(f"{name} --help").startswith(f"Usage: {name} ")
    fresh.does("cd /etc/perdition && make && makegdbm -u popmap.gdbm.db | grep joe:")
    fresh.does("perdition --lookup joe | grep 192.0.2.11")
    fresh.does("dpkg --remove perdition")
    assert "perdition." not in fresh.does("ps -e -o args"), "it still runs"
    fresh.does("dpkg --purge perdition")
    assert not files(fresh) - before
    assert not before - files(fresh)


def test_manual_is_found_by_every_name(fresh: Machine) -> None:
    fresh.does(f"{APT} install /ours/*.deb")
    for name in (*ALL_NAMES, "perdition"):
        assert fresh.does(f"man {name}").startswith("PERDITION(8)")
    for page in ("perditiondb", "perdition.conf", "perdition-2.2", "perdition-setup", "makegdbm"):
        assert fresh.does(f"man {page}").startswith(f"{page.upper()}(")
    for name in ("makebdb", *(f"perditiondb_{kind}_makedb" for kind in (*MAPS, "sqlite"))):
        assert name in fresh.does(f"man {name}").partition("DESCRIPTION")[0]


def test_init_script_with_all_protocols(fresh: Machine) -> None:
    fresh.does(f"{APT} install /ours/perdition_*.deb")
    fresh.does("/etc/init.d/perdition stop; sed -i s/S=no/S=yes/ /etc/default/perdition")
    set_up_site(fresh)
    assert fresh.does("/etc/init.d/perdition start").count(" started (process") == 5
    assert all_run(fresh.does("/etc/init.d/perdition status"))
    assert log_in(fresh).count("Subject: Welcome") == 4
    assert fresh.does("/etc/init.d/perdition start").count("is already running") == 5
    fresh.does("/etc/init.d/perdition reload")
    assert log_in(fresh).count("Subject: Welcome") == 4
    fresh.does("/etc/init.d/perdition restart")
    assert log_in(fresh).count("Subject: Welcome") == 4
    assert fresh.does("/etc/init.d/perdition stop").count(" stopped") == 5
    assert fresh.tries("/etc/init.d/perdition status").returncode == 3
    assert "perdition." not in fresh.does("ps -e -o args")


def test_all_protocols_idle_in_little_memory(fresh: Machine) -> None:
    """As two processors have it, whatever this machine has; no other program shares its pages."""
    fresh.does(f"{APT} install /ours/perdition_*.deb")
    fresh.does("/etc/init.d/perdition stop; sed -i s/S=no/S=yes/ /etc/default/perdition")
    configure(fresh)
    fresh.does("for file in /etc/perdition/*.conf; do echo workers 2 >>$file; done")
    fresh.does("/etc/init.d/perdition start")
    pids = fresh.does("pgrep -f ^perdition").split()
    assert len(pids) == 5 * 3 + 2 * 2, "masters, workers; helpers and supervisors for TLS"
    rollups = fresh.does(f"cat {' '.join(f'/proc/{pid}/smaps_rollup' for pid in pids)}")
    kibibytes = sum(int(size) for size in re.findall(r"^Pss: +(\d+) kB", rollups, re.MULTILINE))
    assert kibibytes <= 100 * 1024


def reads_mail(machine: Machine, user: str) -> bool:
    """Whether a user can log in by all protocols; a changed popmap is used after a second."""
    try:
        return log_in(machine, user).count("Subject: Welcome") == 4
    except AssertionError:
        return False


def test_takes_over_from_perdition_22(fresh: Machine) -> None:
    fresh.does(f"{APT} install perdition=2.2*")
    fresh.does("/etc/init.d/perdition stop")
    set_up_site(fresh)
    assert " started (process" not in fresh.does("/etc/init.d/perdition start"), "that is 2.2"
    fresh.wait_for("[ $(ps -e -o args | grep -c '^perdition.*: daemon') = 5 ]")
    stay_logged_in(fresh)
    before = fresh.does(f"md5sum {ITS_FILES}")

    fresh.does(f"{APT} install /ours/perdition_*.deb")

    assert fresh.does(f"md5sum {ITS_FILES}") == before
    assert all_run(fresh.does("/etc/init.d/perdition status"))
    assert ": daemon" not in fresh.does("ps -e -o args"), "the old one still runs"
    assert log_in(fresh).count("Subject: Welcome") == 4
    assert fate_of_session(fresh) == "alive", "2.2 has a process for each session"
    fresh.does("cd /etc/perdition && echo ann:127.0.0.2 >>popmap && make")
    until(lambda: reads_mail(fresh, "ann"), fresh.evidence)
    fresh.does("apt-get --yes purge perdition && rm -r /etc/perdition")
    assert "perdition." not in fresh.does("ps -e -o args"), "it still runs"


def test_comes_after_perdition_22_that_is_removed(fresh: Machine) -> None:
    fresh.does(f"{APT} install perdition=2.2* && dpkg --remove perdition")
    fresh.does(f"{APT} install /ours/perdition_*.deb")
    fresh.does("cd /etc/perdition && echo ann:192.0.2.9 >>popmap && make")
    assert "192.0.2.9" in fresh.does("perdition --lookup ann")
    fresh.does("dpkg --purge perdition && ! ls /etc/perdition")


@pytest.mark.parametrize("verb", ["enable", "disable"])
def test_starts_at_boot_if_perdition_22_did(fresh: Machine, verb: str) -> None:
    fresh.does(f"{APT} install perdition=2.2* && update-rc.d perdition {verb}")
    fresh.does(f"{APT} install /ours/perdition_*.deb")
    started = fresh.does(
        "find /etc/systemd /etc/rc2.d -name perdition.service -o -name 'S*perdition'"
    )
    assert len(started.splitlines()) == (2 if verb == "enable" else 0), started


def test_takes_over_with_the_packages_of_maps(fresh: Machine) -> None:
    fresh.does(f"{APT} install {OLD}")
    fresh.does("/etc/init.d/perdition stop")
    set_up_site(fresh)
    fresh.does(f"sed -i s,^IMAP4_FLAGS=,{LDAP}, /etc/default/perdition")
    fresh.does("/etc/init.d/perdition start")
    assert "logins fail" not in fresh.does(f"{APT} install /ours/*.deb")
    assert all_run(fresh.does("/etc/init.d/perdition status"))
    for name in MAPS:
        lookup = f"perdition --lookup joe -M /usr/lib/libperditiondb_{name}.so.0 2>&1"
        asked = fresh.tries(f"{lookup} --map_timeout 1")
        assert asked.returncode == 2
        assert "no module" not in asked.stdout, "the server is what is missing"
        assert "joe" in fresh.does(f"echo joe:host | perditiondb_{name}_makedb")
        fresh.does(f"apt-get --yes purge perdition-{name}")
        refused = fresh.tries(lookup)
        assert refused.returncode == 2
        assert f"install the package perdition-{name} " in refused.stdout
        assert refused.stdout.count("\n") == 1


def test_popmap_whose_package_is_left_out_is_told(fresh: Machine) -> None:
    fresh.does(f"{APT} install perdition=2.2* perdition-ldap=2.2*")
    fresh.does(f"sed -i s,^IMAP4_FLAGS=,{LDAP}, /etc/default/perdition")
    said = fresh.does(f"{APT} install /ours/perdition_*.deb")
    assert "logins fail until you run: apt install ./perdition-ldap_*.deb\n" in said
    assert "perdition-mysql is not installed" not in said
    fresh.does(f"cd /ours && {APT} install ./perdition-ldap_*.deb")
    lookup = fresh.tries("perdition.imap4 --lookup joe -M ldap --map_timeout 1")
    assert "install the package" not in lookup.stdout


def test_upgrade_of_ours(fresh: Machine, newer_debs: list[Path]) -> None:
    fresh.does(f"{APT} install /ours/perdition_*.deb /ours/perdition-ldap_*.deb")
    fresh.does("/etc/init.d/perdition stop; sed -i s/S=no/S=yes/ /etc/default/perdition")
    set_up_site(fresh)
    fresh.does("/etc/init.d/perdition start")
    stay_logged_in(fresh)
    before = fresh.does(f"md5sum {ITS_FILES}")
    pids = fresh.does("cat /run/perdition.*/*.pid")
    bring(fresh, newer_debs)

    fresh.does(f"{APT} install /new/perdition_*.deb /new/perdition-ldap_*.deb")

    assert (
        fresh.does("dpkg-query --show -f '${Version} ' perdition perdition-ldap") == f"{NEWER} " * 2
    )
    assert fresh.does(f"md5sum {ITS_FILES}") == before
    assert all_run(fresh.does("/etc/init.d/perdition status"))
    assert not set(pids.split()) & set(fresh.does("cat /run/perdition.*/*.pid").split())
    assert log_in(fresh).count("Subject: Welcome") == 4
    assert fate_of_session(fresh) == "alive"


@pytest.mark.own_system
def test_purge_where_systemd_opens_a_port(debs: list[Path], folder: Path) -> None:
    need_root()
    have("systemd-run")
    with BootedMachine(folder) as machine:
        machine.does("rm -rf /etc/perdition /etc/*/perdition /usr/sbin/policy-rc.d")
        machine.does(f"dpkg --force-depends --install {debs[0]}")
        machine.does("systemctl stop perdition; systemctl enable --now perdition@imap4.socket")
        assert "imap4.socket" in machine.does(SYSTEMD_HAS)
        machine.does("dpkg --purge perdition")
        assert not machine.does(SYSTEMD_HAS)


SYSTEMD_HAS = """
systemctl list-units --all --plain --no-legend 'perdition*'
find /etc/systemd /run/systemd /var/lib/systemd -name 'perdition*'
"""


def test_c_library_of_a_site(fresh: Machine, folder: Path) -> None:
    have("cc")
    source = folder / "site.c"
    source.write_text(SITE_LIBRARY)
    run("cc", "-shared", "-fPIC", "-o", str(folder / "site.so"), str(source))
    fresh.does(f"{APT} install /ours/perdition_*.deb")
    bring(fresh, [folder / "site.so"])
    assert "192.0.2.77" in fresh.does("perdition --lookup joe -M /new/site.so")


SITE_LIBRARY = """
#include <string.h>

int dbserver_get(const char *key, const char *options, char **value, size_t *length)
{
    *value = strdup("192.0.2.77");
    *length = strlen(*value);
    return 0;
}
"""


@pytest.mark.parametrize("name", MAPS)
def test_what_is_in_a_map_s_package(debs: list[Path], name: str) -> None:
    [package] = [path for path in debs if path.name.startswith(f"perdition-{name}_")]
    content = run("dpkg-deb", "--contents", str(package))
    assert f"./usr/share/perdition/perdition/popmap/backends/{name}.py\n" in content
    assert f"./usr/sbin/perditiondb_{name}_makedb -> perdition\n" in content
    assert f"./usr/share/man/man8/perditiondb_{name}_makedb.8.gz\n" in content
