"""A Debian with a real systemd, booted under QEMU's emulation, so without hardware virtualisation."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PACKAGES = (
    "systemd-sysv,udev,dbus,openssh-server,python3,python3-venv,linux-image-cloud-amd64,iproute2,procps,sshfs,"
    "ca-certificates"
)
NEEDS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
}
"""Programs, and the packages of Debian that bring them."""
DISKS = {"data": 512, "picks": 64}
"""Further disks and their MiB: micrographs, and results on a disk that is soon full."""
_BOOT_SECONDS = 900.0


def check_needs() -> None:
    """Exit with what to type where something is missing."""
    missing = sorted({package for program, package in NEEDS.items() if shutil.which(program) is None})
    if missing:
        raise SystemExit(f"expected the programs of {', '.join(missing)}; type: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        raise SystemExit("expected root, which building the machine's disk needs; type: sudo make machine")


def run(*command: str | Path, **options: object) -> str:
    """Run a program of this machine; what it says."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


class Image:
    """The disks that a machine boots from, made once for the same programs and again for another frazil.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.key = folder / "key"
        folder.mkdir(parents=True, exist_ok=True)

    def make_base(self) -> None:
        """Install Debian into `root`; one of earlier is taken as it was."""
        if not self.key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        digest = hashlib.sha256(PACKAGES.encode() + self.key.read_bytes()).hexdigest()[:16]
        base = self.folder / f"base-{digest}.tar"
        if not base.exists():
            aside = base.with_suffix(".tmp.tar")
            run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", aside)
            aside.rename(base)
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        run("tar", "-C", self.root, "--exclude=./dev/*", "-xf", base)
        self._configure()

    def _configure(self) -> None:
        files = {
            "etc/hostname": "microscope\n",
            "etc/hosts": "127.0.0.1 localhost microscope\n",
            "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
            "etc/systemd/network/10-ether.network": (
                "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
            ),
            "etc/ssh/sshd_config.d/fast.conf": "UseDNS no\nMaxSessions 50\n",
        }
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)
        keys = self.root / "root/.ssh"
        keys.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.key, keys / "id_ed25519")
        shutil.copy(self.key.with_suffix(".pub"), keys / "authorized_keys")
        self.chroot("systemctl", "enable", "systemd-networkd", "ssh")
        self.chroot("useradd", "--create-home", "--shell", "/bin/bash", "em")

    def chroot(self, *command: str) -> str:
        """Run a program in the tree, at the speed of this machine."""
        return run("chroot", self.root, *command, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"})

    def make_disks(self) -> None:
        """Write the tree onto the first disk, and make the others."""
        for name in ("disk", *DISKS):
            (self.folder / f"{name}.img").unlink(missing_ok=True)
        run("mke2fs", "-q", "-t", "ext4", "-d", self.root, self.folder / "disk.img", "8G")
        for name, mebibytes in DISKS.items():
            run("mke2fs", "-q", "-t", "ext4", "-L", name, self.folder / f"{name}.img", f"{mebibytes}M")


class Machine:
    """A machine that runs.

    Args:
        image: to boot from.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        (kernel,) = image.root.glob("boot/vmlinuz-*")
        (initrd,) = image.root.glob("boot/initrd.img-*")
        drives = [f"file={image.folder / name}.img,if=virtio,format=raw,cache=unsafe" for name in ("disk", *DISKS)]
        self._process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"),
                *("-smp", "2", "-m", "3072", "-kernel", kernel, "-initrd", initrd),
                *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0"),
                *(word for drive in drives for word in ("-drive", drive)),
                *("-nographic", "-serial", f"file:{image.folder / 'console.log'}", "-monitor", "none"),
                *("-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
                *("-device", "virtio-net-pci,netdev=n0", "-device", "virtio-rng-pci"),
            ],
            stdin=subprocess.DEVNULL,
        )
        self.wait_for_boot()

    def wait_for_boot(self, before: str = "") -> str:
        """Wait until it has booted, anew if `before` is the boot that went before; the boot's identity."""
        deadline = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise SystemExit(f"QEMU ended; see {self._image.folder / 'console.log'}")
            status, said = self.try_run("cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait", 120)
            boot = said.split("\n")[0].strip()
            if status in (0, 1) and len(boot) == 36 and boot != before:
                return boot
            time.sleep(2)
        raise SystemExit(f"no login after {_BOOT_SECONDS:g} s; see {self._image.folder / 'console.log'}")

    def try_run(self, script: str, timeout_seconds: float = 300.0) -> tuple[int, str]:
        """Run a shell script there as root; its status (-1: it did not end in time) and all that it says."""
        try:
            done = subprocess.run(
                [*self._ssh(), "bash", "-s"],
                input=script,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            said = error.stdout or b""
            return -1, said.decode() if isinstance(said, bytes) else said
        return done.returncode, done.stdout

    def run(self, script: str, timeout_seconds: float = 300.0) -> str:
        """Run a shell script there as root; what it says.

        Raises:
            AssertionError: a command of it failed.
        """
        status, said = self.try_run(f"set -euo pipefail\n{script}", timeout_seconds)
        assert status == 0, f"{script.strip()}\nended with {status}:\n{said}"
        return said.strip()

    def wait(self, script: str, timeout_seconds: float = 300.0) -> str:
        """Run a script until it succeeds; what it says then.

        Raises:
            AssertionError: it never did.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            status, said = self.try_run(f"set -euo pipefail\n{script}")
            if status == 0:
                return said.strip()
            assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s for\n{script.strip()}\n{said}"
            time.sleep(1)

    def stop(self) -> None:
        """Power it off."""
        self.try_run("systemctl poweroff", 60)
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ssh(self) -> Sequence[str]:
        options = (
            *("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"),
            *("ConnectTimeout=20", "ServerAliveInterval=15"),
        )
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", "-i", str(self._image.key), "-p", str(self._port), *words, "root@127.0.0.1"]
