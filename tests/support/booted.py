"""A container with its own systemd, for tests of services."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.machine import ROOT, Machine
from tests.support.wait import DEADLINE

SYSTEMD = Path("/lib/systemd/systemd")

_SET_UP = """
set -e
cd "$1"
mount --make-rprivate /
mount -t tmpfs machine .
cd "$1"
mkdir upper work root cgroup
mount -t cgroup2 cgroup2 cgroup
mkdir "cgroup/$2"
echo 0 >"cgroup/$2/cgroup.procs"
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work machine root
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
for folder in dev run; do mount -t tmpfs -o mode=1777 "$folder" "$folder"; done
chmod 755 dev run
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s pts/ptmx dev/ptmx
ln -sf /dev/null etc/tmpfiles.d/tmp.conf  # it would empty /tmp, where tests have their files
ln -sf /dev/null etc/systemd/system/tmp.mount  # since Debian 13 it would hide them
ip link set lo up
exec unshare --cgroup sh -c '
    mount -t cgroup2 cgroup2 sys/fs/cgroup && exec chroot . sh -c "
        echo ready
        exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            $0 --system --unit=basic.target --show-status=no >/boot.log 2>&1
    "
' "$3"
"""
"""Its first process is in a control group of its own, and sees that as the root of all."""

_FORGET = """
mount -t cgroup2 cgroup2 "$1"
while grep -qx "populated 1" "$1/$2/cgroup.events"; do sleep 0.02; done
find "$1/$2" -depth -type d -exec rmdir {} +
"""

_INSTALL = rf"""
set -e
for package in $(dpkg-query --show --showformat '${{Package}}\n' 'perdition*' 2>/dev/null); do
    dpkg --purge --force-depends "$package"
done
rm -rf /etc/perdition /etc/*/perdition /etc/init.d/perdition
cd {ROOT}
packaging/install /
cp -R perdition /usr/share/perdition
cp -R packaging/etc/perdition packaging/etc/pam.d /etc
cp initscripts/systemd/* /etc/systemd/system
cp initscripts/debian /etc/init.d/perdition
mkdir /opt/libraries
mount --bind {ROOT}/.venv/lib/python3.*/site-packages /opt/libraries
echo /opt/libraries >/usr/lib/python3/dist-packages/libraries.pth
systemctl daemon-reload
systemctl start systemd-user-sessions
"""
"""Replaces a perdition that this system has, of which only the machine's copy changes.

The libraries are in /opt because the unit hides /tmp, where this checkout may be.
"""


class BootedMachine(Machine):
    """One whose first process is systemd, with basic.target only."""

    namespaces = (*Machine.namespaces, "--ipc", "--uts")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.group = f"perdition-{folder.name}"

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.wait_for("[ -S /run/systemd/private ]")
            self.tries("systemctl is-system-running --wait")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    @property
    def control_group(self) -> Path:
        """The root of the container's control groups."""
        return Path(self.root, "sys/fs/cgroup")

    @property
    def root(self) -> Path:
        """The container's root directory."""
        return Path(f"/proc/{self._first}/root")

    def install_perdition(self) -> None:
        """Install the files that a package has; no service is started."""
        self.does(_INSTALL)

    def add_user(self, name: str, password: str) -> None:
        """Add a system user who can log in by PAM."""
        self.does(f"useradd --create-home {name} && echo {name}:{password} | chpasswd")

    def first(self) -> list[str]:
        return ["sh", "-c", _SET_UP, "sh", str(self.folder), self.group, str(SYSTEMD)]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        forget = ["sh", "-e", "-c", _FORGET, "sh", str(self.folder), self.group]
        subprocess.run(["unshare", "--mount", *forget], check=True, timeout=DEADLINE)
