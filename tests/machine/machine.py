"""A Debian with a real systemd, booted under QEMU's emulation, so without hardware virtualisation."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PACKAGES = (
    "systemd-sysv,udev,dbus,openssh-server,python3,python3-venv,linux-image-cloud-amd64,iproute2,procps,kmod,sshfs,"
    "ca-certificates"
)
NEEDS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
}
"""Programs, and the packages of Debian that bring them."""
DATA_MEBIBYTES = 256
"""Size of the disk for micrographs and results, which is soon full."""
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
    """The disk that a machine boots from: Debian, and virtual environments that lack frazil alone.

    Made once for the same packages, and kept: a machine writes to a copy that goes when it stops.

    Args:
        folder: where it is kept.
        requirements: what frazil depends on, as for pip.
        constraints: file with the versions to take.
        venvs: virtual environments to make.
    """

    def __init__(self, folder: Path, requirements: Sequence[str], constraints: Path, venvs: Sequence[str]) -> None:
        this_module = Path(__file__).read_text("utf-8").partition("class Machine")[0]
        made_of = [*requirements, *venvs, constraints.read_text("utf-8"), this_module]
        self.folder = folder
        self.key = folder / "key"
        self.disk = folder / f"debian-{hashlib.sha256(chr(0).join(made_of).encode()).hexdigest()[:16]}.img"
        self._tree = folder / "tree"
        self._requirements, self._constraints, self._venvs = requirements, constraints, venvs

    def make(self) -> None:
        """Make the disk; one that is there is taken as it is."""
        if self.disk.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        self._tree.mkdir()
        packed = self.folder / "debian.tar"
        run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", packed)
        run("tar", "-C", self._tree, "--exclude=./dev/*", "-xf", packed)
        packed.unlink()
        self._configure()
        self._install_requirements()
        for name in ("vmlinuz", "initrd.img"):
            (found,) = self._tree.glob(f"boot/{name}-*")
            shutil.copy(found, self.folder / name)
        aside = self.disk.with_suffix(".tmp")
        run("mke2fs", "-q", "-t", "ext4", "-d", self._tree, aside, "6G")
        shutil.rmtree(self._tree)
        aside.rename(self.disk)

    def _configure(self) -> None:
        files = {
            "etc/hostname": "microscope\n",
            "etc/hosts": "127.0.0.1 localhost microscope\n",
            "etc/fstab": (
                "/dev/vda / ext4 defaults 0 1\nLABEL=payload /payload ext4 ro 0 0\nLABEL=data /data ext4 nofail 0 2\n"
            ),
            "etc/systemd/network/10-ether.network": (
                "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
            ),
            "etc/ssh/sshd_config.d/fast.conf": "UseDNS no\nMaxSessions 50\n",
        }
        for name, text in files.items():
            (self._tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self._tree / name).write_text(text)
        for name in ("payload", "data", "var/log/journal"):
            (self._tree / name).mkdir(exist_ok=True)
        keys = self._tree / "root/.ssh"
        keys.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.key, keys / "id_ed25519")
        shutil.copy(self.key.with_suffix(".pub"), keys / "authorized_keys")
        self._chroot("systemctl", "enable", "systemd-networkd", "ssh")
        timers = ("apt-daily", "apt-daily-upgrade", "e2scrub_all", "fstrim", "dpkg-db-backup")
        self._chroot("systemctl", "mask", *(f"{timer}.timer" for timer in timers))
        self._chroot("useradd", "--create-home", "--shell", "/bin/bash", "em")

    def _install_requirements(self) -> None:
        """Into the virtual environments, from wheels for the machine's Python, which need not be this one's."""
        wheels = self._tree / "wheels"
        platforms = [f"manylinux_2_{minor}_x86_64" for minor in (17, 26, 27, 28)] + ["manylinux2014_x86_64"]
        run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", wheels, "--only-binary=:all:"),
            *("--python-version", "3.11", "--implementation", "cp", *(f"--platform={name}" for name in platforms)),
            *("--constraint", self._constraints, *self._requirements),
        )
        names = sorted(f"/wheels/{wheel.name}" for wheel in wheels.iterdir())
        first, *others = self._venvs
        for venv in self._venvs:
            self._chroot("python3", "-m", "venv", venv)
        self._chroot(f"{first}/bin/pip", "install", "--quiet", "--no-deps", "--no-index", *names)
        for venv in others:  # the same files, by hard links
            packages = "lib/python3.11/site-packages"
            self._chroot("cp", "-al", "--update", f"{first}/{packages}/.", f"{venv}/{packages}/")
        shutil.rmtree(wheels)

    def _chroot(self, *command: str) -> None:
        """Run a program in the tree, at the speed of this machine."""
        run("chroot", self._tree, *command, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"})


class Machine:
    """A machine that runs; it forgets everything when it stops.

    Args:
        image: to boot from.
        payload: a folder that it sees, read only, as ``/payload``.
    """

    def __init__(self, image: Image, payload: Path) -> None:
        self._image = image
        self._console = image.folder / "console.log"
        self._sockets = tempfile.TemporaryDirectory()  # whose path is short enough for a socket
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        disks = {"payload": image.folder / "payload.img", "data": image.folder / "data.img"}
        for disk in disks.values():
            disk.unlink(missing_ok=True)
        run("mke2fs", "-q", "-t", "ext4", "-L", "payload", "-d", payload, disks["payload"], "64M")
        run("mke2fs", "-q", "-t", "ext4", "-L", "data", "-m", "0", disks["data"], f"{DATA_MEBIBYTES}M")
        drives = [f"file={disk},if=virtio,format=raw,snapshot=on" for disk in (image.disk, *disks.values())]
        self._process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"),
                *("-smp", "2", "-m", "3072"),
                *("-kernel", image.folder / "vmlinuz", "-initrd", image.folder / "initrd.img"),
                *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0"),
                *(word for drive in drives for word in ("-drive", drive)),
                *("-nographic", "-serial", f"file:{self._console}", "-monitor", "none"),
                *("-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
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
                raise SystemExit(f"QEMU ended; see {self._console}")
            status, said = self.try_run("cat /proc/sys/kernel/random/boot_id", 60)
            if status == 0 and len(boot := said.strip()) == 36 and boot != before:
                return boot
            time.sleep(2)
        raise SystemExit(f"no login after {_BOOT_SECONDS:g} s; see {self._console}")

    def try_run(self, script: str, timeout_seconds: float = 300.0) -> tuple[int, str]:
        """Run a shell script there as root; its status (-1: it did not end in time) and all that it says."""
        try:
            done = subprocess.run(
                [*self.ssh, "bash", "-s"],
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

    def wait_for_end(self) -> None:
        """Wait until somebody has powered it off."""
        self._process.wait()

    @property
    def ssh(self) -> list[str]:
        """The command that runs another there."""
        options = (
            *("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"),
            *("ConnectTimeout=20", "ServerAliveInterval=15"),
            # One connection for all: an emulated machine takes seconds to agree on the keys of each.
            *("ControlMaster=auto", "ControlPersist=60", f"ControlPath={self._sockets.name}/ssh"),
        )
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", "-i", str(self._image.key), "-p", str(self.port), *words, "root@127.0.0.1"]
