"""The service on a machine that boots: every promise to systemd, tried, and the record of it in the docs.

    sudo make machine            # all of it, into docs/reference/machine.md
    python tests/machine/run.py --only "hangs"

Each check is a function; its docstring is the promise, what it returns is what was seen. One machine serves them all,
in this order, and is booted twice: at the start, and in the middle of a session.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from machine import Image, Machine, check_needs
from prepare import REPOSITORY, prepare

PAGE = REPOSITORY / "docs" / "reference" / "machine.md"
Check = Callable[[Machine], str]
CHECKS: list[Check] = []
BUSY = 600.0
"""Seconds that an emulated machine on busy cores may take for what a real one does at once."""

FRAZIL = "/opt/frazil/bin/frazil"


def check(function: Check) -> Check:
    """Have a function run in its place."""
    CHECKS.append(function)
    return function


def ledger(machine: Machine, query: str, instance: str = "titan1") -> list[str]:
    """First column of what a query finds in an instance's ledger."""
    said = machine.run(
        "python3 - <<'PY'\nimport sqlite3\n"
        f"database = sqlite3.connect('file:/var/lib/frazil/{instance}/ledger.sqlite?mode=ro', uri=True)\n"
        f"print(*(row[0] for row in database.execute({query!r})), sep='\\n')\nPY"
    )
    return said.splitlines()


def add(machine: Machine, name: str, folder: str = "/data/titan1") -> None:
    """Have a micrograph appear, as its writer would make it."""
    machine.run(f"runuser -u em -- cp /srv/micrographs/known.mrc {folder}/{name}")


def get(machine: Machine, path: str, port: int = 9457) -> tuple[int, str]:
    """Ask the instance's HTTP address from inside the machine."""
    said = machine.run(
        f"python3 - <<'PY'\nimport urllib.request, urllib.error\ntry:\n"
        f"    answer = urllib.request.urlopen('http://127.0.0.1:{port}{path}', timeout=60)\n"
        "except urllib.error.HTTPError as error:\n    answer = error\n"
        "print(answer.status, answer.read().decode(errors='replace'), sep='\\n')\nPY"
    )
    status, _, body = said.partition("\n")
    return int(status), body


def wait_active(machine: Machine, unit: str = "frazil@titan1") -> str:
    """Wait until systemd has heard READY; the status line."""
    machine.wait(f'[ "$(systemctl show -P ActiveState {unit})" = active ]', BUSY)
    return machine.run(f"systemctl show -P StatusText {unit}")


def journal(machine: Machine, *fields: str, unit: str = "frazil@titan1") -> list[dict[str, str]]:
    """Entries of the journal of this boot."""
    said = machine.run(f"journalctl --boot --unit {unit} --output json {' '.join(fields)}")
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


# --- the start ------------------------------------------------------------------------------------------------------


@check
def the_self_test_passes(machine: Machine) -> str:
    """`frazil selftest`, from the wheel alone"""
    return machine.run(f"{FRAZIL} selftest", BUSY).splitlines()[-1]


@check
def the_service_is_installed(machine: Machine) -> str:
    """`frazil install-service` writes unit, drop-in and settings"""
    machine.run(
        "mkdir -p /data /picks && mount LABEL=data /data && mount LABEL=picks /picks\n"
        "echo 'LABEL=data /data ext4 defaults,nofail 0 2' >> /etc/fstab\n"
        "echo 'LABEL=picks /picks ext4 defaults,nofail 0 2' >> /etc/fstab\n"
        "mkdir -p /data/titan1 /picks/titan1 && chown em /data/titan1 /picks/titan1"
    )
    said = machine.run(
        f"{FRAZIL} install-service titan1 --watch /data/titan1 --out /picks/titan1 --diameter 172 --user em\n"
        "systemd-analyze verify /etc/systemd/system/frazil@.service && systemctl daemon-reload",
        BUSY,
    )
    return said.splitlines()[0]


@check
def it_gets_ready(machine: Machine) -> str:
    """`systemctl enable --now` returns once the model is warm: READY and STATUS"""
    started = time.monotonic()
    machine.run("systemctl enable --now frazil@titan1", BUSY)
    return f"ready in {time.monotonic() - started:.0f} s (emulated); {wait_active(machine)}"


@check
def it_is_confined(machine: Machine) -> str:
    """Exposure of the running unit, at most 2.0 (`systemd-analyze security`)"""
    said = machine.run("systemd-analyze security --no-pager frazil@titan1", BUSY)
    found = re.search(r"exposure level for frazil@titan1\.service: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= 2.0, said
    return f"{found[1]}"


@check
def it_picks(machine: Machine) -> str:
    """A micrograph that appears is picked: STAR file, page, metrics, probes"""
    add(machine, "first.mrc")
    machine.wait("test -s /picks/titan1/first_picks.star", BUSY)
    assert get(machine, "/")[0] == get(machine, "/healthz")[0] == get(machine, "/readyz")[0] == 200
    status, metrics = get(machine, "/metrics")
    assert status == 200
    assert re.search(r"frazil_micrographs_total\{[^}]*picked[^}]*\} 1\.0", metrics), metrics
    (picks,) = ledger(machine, "SELECT json_array_length(body, '$.picks.score') FROM documents WHERE topic = 'picks'")
    return f"{picks} picks of 359 particles; page, /metrics, /healthz and /readyz answer"


@check
def its_journal_has_fields(machine: Machine) -> str:
    """Each event is one entry of the journal, with fields"""
    (entry,) = journal(machine, "FRAZIL_EVENT=picked")
    assert entry["FRAZIL_MICROGRAPH"] == "first.mrc"
    assert entry["FRAZIL_SEQ"] == "1"
    return ", ".join(f"{name}={value}" for name, value in sorted(entry.items()) if name.startswith("FRAZIL_"))


@check
def it_reloads(machine: Machine) -> str:
    """`systemctl reload` returns once the promoted model serves"""
    machine.run(
        "mkdir -p /srv/models\n"
        "cp -r /opt/frazil/lib/python3.11/site-packages/frazil/exported_models/fcn /srv/models/\n"
        "cd /srv/models/fcn && cp -r $(head -1 CURRENT) 99\n"
        "echo 'model = \"/srv/models/fcn\"' >> /etc/frazil/titan1.toml\n"
        f"{FRAZIL} install-service titan1 && systemctl daemon-reload && systemctl restart frazil@titan1",
        BUSY,
    )
    wait_active(machine)
    machine.run(f"{FRAZIL} models promote /srv/models/fcn 99 && systemctl reload frazil@titan1", BUSY)
    add(machine, "reloaded.mrc")
    machine.wait("test -s /picks/titan1/reloaded_picks.star", BUSY)
    models = ledger(machine, "SELECT json_extract(body, '$.event') FROM documents WHERE topic = 'model'")
    assert models == ["loaded"], models
    status = wait_active(machine)
    assert "fcn/99" in status, status
    return status


# --- keys -----------------------------------------------------------------------------------------------------------


@check
def keys_are_credentials(machine: Machine) -> str:
    """A stream that others read, encrypted; root's own key comes by LoadCredential="""
    machine.run(
        "mkdir -p /data/titan2 /picks/titan2 /etc/frazil/clients && chown em /data/titan2 /picks/titan2\n"
        f"cd /etc/frazil && {FRAZIL} keys new titan2 && cd /root && {FRAZIL} keys new subscriber\n"
        "cp /root/subscriber.key /etc/frazil/clients/ && chmod 600 /etc/frazil/titan2.key_secret\n"
        f"{FRAZIL} install-service titan2 --watch /data/titan2 --out /picks/titan2 --diameter 172 --user em\n"
        "cat >> /etc/frazil/titan2.toml <<'T'\n"
        'publish = "tcp://0.0.0.0:5656"\nhttp = "127.0.0.1:9557"\n'
        'curve_key = "$CREDENTIALS_DIRECTORY/titan2.key_secret"\ncurve_clients = "/etc/frazil/clients"\nT\n'
        f"{FRAZIL} install-service titan2 && systemctl daemon-reload && systemctl start frazil@titan2",
        BUSY,
    )
    add(machine, "secret.mrc", "/data/titan2")
    said = machine.run(
        f"cd /root && {FRAZIL} listen tcp://127.0.0.1:5656 --since 1 --count 1 --timeout {BUSY:g} "
        "--key subscriber.key_secret --server-key /etc/frazil/titan2.key",
        BUSY,
    )
    assert "secret.mrc" in said, said
    machine.run("systemctl stop frazil@titan2")
    return said.splitlines()[-1]


# --- what goes wrong ------------------------------------------------------------------------------------------------


@check
def a_stopped_process_is_killed(machine: Machine) -> str:
    """SIGSTOP: nothing feeds the watchdog, systemd kills and starts it again, and nothing is lost"""
    before = machine.run("systemctl show -P NRestarts frazil@titan1")
    machine.run("kill -STOP $(systemctl show -P MainPID frazil@titan1)")
    add(machine, "stopped.mrc")
    machine.wait(f'[ "$(systemctl show -P NRestarts frazil@titan1)" -gt {before} ]', BUSY)
    machine.wait("test -s /picks/titan1/stopped_picks.star", BUSY)
    wait_active(machine)
    return last_line(machine, "Watchdog timeout")


def last_line(machine: Machine, words: str, unit: str = "frazil@titan1") -> str:
    """What systemd says of a unit, the last time with these words."""
    found = [e["MESSAGE"] for e in journal(machine, unit=unit) if words in str(e.get("MESSAGE"))]
    assert found, f"nothing in the journal says {words!r}"
    return found[-1]


@check
def a_read_that_never_ends_is_ended(machine: Machine) -> str:
    """A network mount hangs in the middle of a read: the stage is named, the watchdog ends it, picking goes on later"""
    machine.run(
        "mkdir -p /srv/remote /mnt/remote /picks/titan3 && chown em /srv/remote /picks/titan3\n"
        "ssh-keyscan -t ed25519 127.0.0.1 > /root/.ssh/known_hosts 2>/dev/null\n"
        "sshfs -o allow_other root@127.0.0.1:/srv/remote /mnt/remote\n"
        f"{FRAZIL} install-service titan3 --watch /mnt/remote --out /picks/titan3 --diameter 172 --user em\n"
        "cat >> /etc/frazil/titan3.toml <<'T'\n"
        'publish = "tcp://127.0.0.1:5756"\nhttp = "127.0.0.1:9657"\nhang_timeout = 20\nread_timeout = 10\nscan = 1\nT\n'
        "mkdir -p /etc/systemd/system/frazil@titan3.service.d && printf '[Service]\\nWatchdogSec=20\\n' "
        "> /etc/systemd/system/frazil@titan3.service.d/quick.conf\n"
        "systemctl daemon-reload && systemctl start frazil@titan3",
        BUSY,
    )
    add(machine, "whole.mrc", "/srv/remote")
    machine.wait("test -s /picks/titan3/whole_picks.star", BUSY)
    before = machine.run("systemctl show -P NRestarts frazil@titan3")
    machine.run("pkill -STOP sshfs")
    try:
        hang = machine.wait("journalctl --boot --unit frazil@titan3 --output cat FRAZIL_EVENT=hangs | grep .", BUSY)
        machine.wait("journalctl --boot --unit frazil@titan3 --output cat | grep 'Watchdog timeout'", BUSY)
    finally:
        machine.run("pkill -CONT sshfs")
    machine.wait(f'[ "$(systemctl show -P NRestarts frazil@titan3)" -gt {before} ]', BUSY)
    add(machine, "after.mrc", "/srv/remote")
    machine.wait("test -s /picks/titan3/after_picks.star", BUSY)
    machine.run("systemctl stop frazil@titan3 && umount /mnt/remote")
    return hang.splitlines()[0]


@check
def restarts_have_a_limit(machine: Machine) -> str:
    """Killed again and again it stays down; a fault of the settings is not tried twice"""
    machine.run(
        "mkdir -p /data/titan4 /picks/titan4 && chown em /data/titan4 /picks/titan4\n"
        f"{FRAZIL} install-service titan4 --watch /data/titan4 --out /picks/titan4 --diameter 172 --user em\n"
        'printf \'publish = "tcp://127.0.0.1:5856"\\nhttp = "127.0.0.1:9757"\\n\' >> /etc/frazil/titan4.toml\n'
        # As shipped it takes ten failures, which here would take long.
        "printf '[Unit]\\nStartLimitBurst=2\\n' > /etc/systemd/system/frazil@titan4.service.d/quick.conf\n"
        "systemctl daemon-reload && systemctl start frazil@titan4",
        BUSY,
    )
    wait_active(machine, "frazil@titan4")
    machine.run("systemctl kill --signal KILL --kill-whom main frazil@titan4")
    machine.wait('[ "$(systemctl show -P NRestarts frazil@titan4)" = 1 ]', BUSY)
    wait_active(machine, "frazil@titan4")
    machine.run("systemctl kill --signal KILL --kill-whom main frazil@titan4")
    machine.wait('[ "$(systemctl show -P ActiveState frazil@titan4)" = failed ]', BUSY)
    machine.run(
        "systemctl reset-failed frazil@titan4 && sed -i 's/^diameter.*/diameter = -1/' /etc/frazil/titan4.toml\n"
        "! systemctl start frazil@titan4",
        BUSY,
    )
    code, restarts = machine.run("systemctl show -P ExecMainStatus -P NRestarts frazil@titan4").split()
    assert (code, restarts) == ("78", "0"), (code, restarts)
    return "two kills with a limit of two: failed; diameter = -1: status 78, no restart"


@check
def a_full_disk_is_waited_for(machine: Machine) -> str:
    """The disk of the results is full: picking waits, readiness says so, and goes on once there is room"""
    machine.run("dd if=/dev/zero of=/picks/ballast bs=64k status=none || true; sync")
    machine.run("dd if=/dev/zero of=/picks/ballast2 bs=1 count=100k status=none || true; sync")
    add(machine, "full.mrc")
    machine.wait("journalctl --boot --unit frazil@titan1 --output cat FRAZIL_EVENT=output_blocked | grep .", BUSY)
    status, said = get(machine, "/readyz")
    assert status == 503, said
    assert get(machine, "/healthz")[0] == 200
    machine.run("rm /picks/ballast /picks/ballast2")
    machine.wait("test -s /picks/titan1/full_picks.star", BUSY)
    assert get(machine, "/readyz")[0] == 200
    return f"503: {said.splitlines()[0]}"


@check
def a_reboot_in_mid_session_loses_nothing(machine: Machine) -> str:
    """Rebooted with work in line it goes on by itself: one result each"""
    for i in range(8):
        add(machine, f"reboot{i}.mrc")
    machine.wait("test -s /picks/titan1/reboot0_picks.star", BUSY)
    boot = machine.run("cat /proc/sys/kernel/random/boot_id")
    machine.try_run("systemctl reboot", 60)
    machine.wait_for_boot(before=boot)
    machine.wait("[ $(ls /picks/titan1/reboot*_picks.star | wc -l) = 8 ]", BUSY)
    paths = ledger(machine, "SELECT path FROM documents WHERE topic = 'picks' AND path LIKE 'reboot%' ORDER BY path")
    assert paths == [f"reboot{i}.mrc" for i in range(8)], paths
    return f"{len(paths)} of 8, each once; {wait_active(machine)}"


@check
def data_that_is_mounted_later_is_waited_for(machine: Machine) -> str:
    """Started without `/data` it waits and says so, and picks once `/data` is mounted"""
    machine.run(
        "systemctl stop frazil@titan1 && sed -i '/LABEL=data/d' /etc/fstab && systemctl daemon-reload && umount /data\n"
        "systemctl start frazil@titan1",
        BUSY,
    )
    status = machine.wait("systemctl show -P StatusText frazil@titan1 | grep 'cannot see /data/titan1'", BUSY)
    machine.run("mount LABEL=data /data")
    add(machine, "late.mrc")
    machine.wait("test -s /picks/titan1/late_picks.star", BUSY)
    machine.run("echo 'LABEL=data /data ext4 defaults,nofail 0 2' >> /etc/fstab; systemctl daemon-reload")
    return status


@check
def a_model_that_needs_too_much_is_refused(machine: Machine) -> str:
    """With MemoryMax=600M a promotion is refused, and the service stays up"""
    machine.run(
        "printf '[Service]\\nMemoryMax=600M\\nMemorySwapMax=0\\n' "
        "> /etc/systemd/system/frazil@titan1.service.d/small.conf\n"
        "systemctl daemon-reload && systemctl restart frazil@titan1",
        BUSY,
    )
    wait_active(machine)
    machine.run("cd /srv/models/fcn && cp -r 99 100")
    before = machine.run("systemctl show -P NRestarts frazil@titan1")
    machine.run("printf '100\\n99\\n' > /srv/models/fcn/aside && mv /srv/models/fcn/aside /srv/models/fcn/CURRENT")
    said = machine.wait(
        "journalctl --boot --unit frazil@titan1 --output cat FRAZIL_MODEL=fcn/100 | grep -E 'refused|serves'", BUSY
    )
    add(machine, "small.mrc")
    machine.wait("test -s /picks/titan1/small_picks.star", BUSY)
    assert machine.run("systemctl show -P NRestarts frazil@titan1") == before
    machine.run(
        "rm /etc/systemd/system/frazil@titan1.service.d/small.conf; printf '99\\n' > /srv/models/fcn/CURRENT\n"
        "systemctl daemon-reload && systemctl restart frazil@titan1",
        BUSY,
    )
    return said.splitlines()[0]


@check
def a_folder_that_is_a_link_into_a_home_is_watched(machine: Machine) -> str:
    """The watched folder is a link into /home, which the service may see, and not change"""
    machine.run(
        "mkdir -p /home/em/collection /picks/titan5 && chown em /home/em/collection /picks/titan5\n"
        "ln -sfn /home/em/collection /data/titan5\n"
        f"{FRAZIL} install-service titan5 --watch /data/titan5 --out /picks/titan5 --diameter 172 --user em\n"
        'printf \'publish = "tcp://127.0.0.1:5956"\\nhttp = "127.0.0.1:9857"\\n\' >> /etc/frazil/titan5.toml\n'
        "systemctl daemon-reload && systemctl start frazil@titan5",
        BUSY,
    )
    add(machine, "linked.mrc", "/home/em/collection")
    machine.wait("test -s /picks/titan5/linked_picks.star", BUSY)
    said = machine.run("grep ProtectHome /etc/systemd/system/frazil@titan5.service.d/machine.conf")
    machine.run("systemctl stop frazil@titan5")
    return said


# --- versions -------------------------------------------------------------------------------------------------------


@check
def an_upgrade_keeps_the_ledger_in_use(machine: Machine) -> str:
    """The version before is killed in mid-session; this one goes on with its ledger and its numbers"""
    machine.run(
        "mkdir -p /data/titan6 /picks/titan6 /var/lib/frazil/titan6\n"
        "chown em /data/titan6 /picks/titan6 /var/lib/frazil/titan6\n"
        "systemd-run --unit before --uid em /opt/frazil-before/bin/frazil serve --watch /data/titan6 "
        "--out /picks/titan6 --diameter 172 --ledger /var/lib/frazil/titan6/ledger.sqlite "
        "--publish tcp://127.0.0.1:6056 --http 127.0.0.1:9957",
        BUSY,
    )
    for i in range(3):
        add(machine, f"before{i}.mrc", "/data/titan6")
    machine.wait("test -s /picks/titan6/before0_picks.star", BUSY)
    machine.run("systemctl kill --signal KILL before")
    machine.run(
        f"{FRAZIL} install-service titan6 --watch /data/titan6 --out /picks/titan6 --diameter 172 --user em\n"
        'printf \'publish = "tcp://127.0.0.1:6056"\\nhttp = "127.0.0.1:9957"\\n\' >> /etc/frazil/titan6.toml\n'
        "systemctl daemon-reload && systemctl start frazil@titan6",
        BUSY,
    )
    add(machine, "since.mrc", "/data/titan6")
    machine.wait("[ $(ls /picks/titan6/*_picks.star | wc -l) = 4 ]", BUSY)
    numbers = ledger(machine, "SELECT seq FROM documents ORDER BY seq", "titan6")
    assert numbers == ["1", "2", "3", "4"], numbers
    said = machine.run(f"{FRAZIL} listen tcp://127.0.0.1:6056 --since 1 --count 4 --timeout {BUSY:g}", BUSY)
    assert all(f"before{i}.mrc" in said for i in range(3)), said
    machine.run("systemctl stop frazil@titan6")
    return "documents 1 to 4: three of the version before and one of this, each once"


@check
def it_is_removed(machine: Machine) -> str:
    """What the how-to says of removing it leaves results and ledger, and nothing else"""
    machine.run(
        "systemctl disable --now frazil@titan1\n"
        "rm -r /etc/systemd/system/frazil@titan1.service.d /etc/frazil/titan1.toml && systemctl daemon-reload"
    )
    machine.run("test -s /picks/titan1/first_picks.star && test -s /var/lib/frazil/titan1/ledger.sqlite")
    machine.run('[ "$(systemctl show -P ActiveState frazil@titan1)" = inactive ] && ! pgrep -f titan1.toml')
    return "STAR files and ledger are there, no process is"


# --- the record -----------------------------------------------------------------------------------------------------


def page(rows: list[tuple[str, str, float, bool]], seconds: float) -> str:
    """The record, as a page of the documentation."""
    table = [
        f"| {promise} | {'' if passed else '**failed**: '}{seen} | {took:.0f} |" for promise, seen, took, passed in rows
    ]
    return "\n".join(
        (
            "# On a machine that boots",
            "",
            "`sudo make machine` builds a Debian 12, boots it in QEMU with a real systemd, and tries the service there",
            "as it is installed: the wheel in a virtual environment, the unit under its whole sandbox. The machine is",
            "emulated, so its times say nothing of a real one.",
            "",
            "| promise | seen | seconds |",
            "| --- | --- | ---: |",
            *table,
            "",
            f"{sum(passed for *_, passed in rows)} of {len(rows)} hold; {seconds / 60:.0f} minutes in all.",
            "",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "machine", help="for the machine's disks")
    parser.add_argument("--only", metavar="WORDS", help="checks whose names hold these words, and the first three")
    arguments = parser.parse_args()
    check_needs()
    started = time.monotonic()
    image = Image(arguments.folder.resolve())
    print("building the machine's disks", flush=True)
    prepare(image)
    print(f"booting after {time.monotonic() - started:.0f} s", flush=True)
    machine = Machine(image)
    rows: list[tuple[str, str, float, bool]] = []
    try:
        for number, function in enumerate(CHECKS):
            if arguments.only and number >= 3 and arguments.only.replace(" ", "_") not in function.__name__:
                continue
            begun = time.monotonic()
            try:
                seen, passed = function(machine), True
            except AssertionError as error:
                seen, passed = str(error), False
                traceback.print_exc()
            took = time.monotonic() - begun
            print(f"{'ok    ' if passed else 'FAILED'} {took:5.0f} s  {function.__name__}: {seen}", flush=True)
            cell = " ".join(seen.replace("|", "\\|").split())[:300]
            rows.append((function.__doc__ or "", cell, took, passed))
    finally:
        machine.stop()
    if not arguments.only:
        PAGE.write_text(page(rows, time.monotonic() - started), "utf-8")
    sys.exit(not all(passed for *_, passed in rows))


if __name__ == "__main__":
    main()
