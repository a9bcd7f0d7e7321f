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
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from machine import Machine, check_needs
from prepare import REPOSITORY, find_image, make_payload

PAGE = REPOSITORY / "docs" / "reference" / "machine.md"
Check = Callable[[Machine], str]
CHECKS: list[Check] = []
BUSY = 240.0
"""Seconds that an emulated machine on busy cores may take for what a real one does at once."""

HANG_TIMEOUT = 30
"""Seconds in the settings, instead of 300; the unit's WatchdogSec is as shipped."""
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


def add(machine: Machine, *names: str, folder: str = "/data/titan1") -> None:
    """Have micrographs appear, as their writer would make them."""
    machine.run(f"for name in {' '.join(names)}; do cp /payload/micrograph.mrc {folder}/$name; done")


def wait_picked(machine: Machine, *names: str) -> None:
    """Wait for the STAR files of micrographs, and until each has one document."""
    stars = " && ".join(f"test -s /data/titan1-picks/{name.removesuffix('.mrc')}_picks.star" for name in names)
    machine.wait(stars, BUSY)
    for name in names:
        found = ledger(machine, f"SELECT count(*) FROM documents WHERE topic = 'picks' AND path = '{name}'")
        assert found == ["1"], f"{name}: {found} documents"


def numbers(machine: Machine) -> str:
    """The ledger's documents, which must be numbered without a gap."""
    found = [int(seq) for seq in ledger(machine, "SELECT seq FROM documents ORDER BY seq")]
    assert found == list(range(1, len(found) + 1)), found
    return f"documents 1 to {len(found)}, each micrograph once"


def restarts(machine: Machine) -> int:
    """How often systemd has started the service again by itself."""
    return int(machine.run("systemctl show -P NRestarts frazil@titan1"))


def event_of(kind: str, options: str = "--output cat") -> str:
    """A script that prints the events of a kind in this boot, and fails where there is none."""
    return f"journalctl --boot --unit frazil@titan1 {options} FRAZIL_EVENT={kind} | grep ."


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


# --- versions -------------------------------------------------------------------------------------------------------


@check
def the_version_before_is_installed(machine: Machine) -> str:
    """The version before, installed from its wheel, picks as a service"""
    for version in ("before", "now"):
        machine.run(
            f"/opt/frazil-{version}/bin/pip install --quiet --no-deps --no-index /payload/{version}/*.whl", BUSY
        )
    machine.run(
        "ln -sfn /opt/frazil-before /opt/frazil && mkdir -p /data/titan1 /data/aside /srv/models\n"
        "chown em /data/titan1\n"
        "cp -r /payload/models/discs /srv/models/\n"
        f"{FRAZIL} install-service titan1 --watch /data/titan1 --out /data/titan1-picks --diameter 172 --user em\n"
        "cat >> /etc/frazil/titan1.toml <<'T'\n"
        f'model = "/srv/models/discs"\nscan = 1\nhang_timeout = {HANG_TIMEOUT}\nread_timeout = 10\nT\n'
        f"{FRAZIL} install-service titan1\n"
        # Its own unit never starts: what libzmq needs at each bind is missing there.
        "printf '[Service]\\nRestrictAddressFamilies=AF_NETLINK\\n' "
        "> /etc/systemd/system/frazil@titan1.service.d/x.conf\n"
        "systemctl daemon-reload && systemctl start frazil@titan1",
        BUSY,
    )
    add(machine, "before0.mrc", "before1.mrc")
    wait_picked(machine, "before0.mrc", "before1.mrc")
    return wait_active(machine)


@check
def an_upgrade_keeps_the_ledger_in_use(machine: Machine) -> str:
    """Upgraded as the how-to says, with work in line: the same ledger, each micrograph once, READY and STATUS"""
    epoch = ledger(machine, "SELECT value FROM meta WHERE key = 'epoch'")
    add(machine, "between0.mrc", "between1.mrc", "between2.mrc")
    machine.run(
        "systemctl stop frazil@titan1\n"
        "cp -a /var/lib/frazil/titan1 /var/lib/frazil/titan1-before\n"
        "ln -sfn /opt/frazil-now /opt/frazil\n"
        "rm /etc/systemd/system/frazil@titan1.service.d/x.conf\n"
        f"{FRAZIL} install-service titan1\n"
        "systemctl daemon-reload",
        BUSY,
    )
    started = time.monotonic()
    machine.run("systemctl enable --now frazil@titan1", BUSY)
    seconds = time.monotonic() - started
    wait_picked(machine, "between0.mrc", "between1.mrc", "between2.mrc")
    assert ledger(machine, "SELECT value FROM meta WHERE key = 'epoch'") == epoch
    return f"ready in {seconds:.0f} s (emulated); {numbers(machine)}; {wait_active(machine)}"


# --- the service ----------------------------------------------------------------------------------------------------


@check
def it_is_confined(machine: Machine) -> str:
    """The process has no capability, may gain no privilege, filters system calls, sees no other process and no home"""
    status = machine.run("cat /proc/$(systemctl show -P MainPID frazil@titan1)/status")
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status, status
    seen = machine.run(
        "pid=$(systemctl show -P MainPID frazil@titan1)\n"
        # Its mounts and its user: what the daemon itself could see and do.
        'inside() { nsenter --target $pid --mount --setuid $(id -u em) --setgid $(id -g em) -- "$@"; }\n'
        "echo homes: $(inside ls /home /root 2>/dev/null | wc -w)\n"
        "echo processes: $(inside ls /proc | grep -c '^[0-9]'), ls and itself\n"
        "for place in /etc /usr /opt/frazil/lib /data/titan1 /data /var/lib; do\n"
        '  inside touch $place/.probe 2>/dev/null && echo "writes $place"\ndone\n'
        "for place in /data/titan1-picks /var/lib/frazil/titan1 /tmp; do\n"
        '  inside touch $place/.probe && inside rm $place/.probe && echo "can write $place"\ndone\n'
        "inside head -c1 /dev/vda 2>/dev/null || echo no disk"
    )
    assert not re.search("^writes", seen, re.MULTILINE), seen
    assert "homes: 0" in seen, seen
    assert "no disk" in seen, seen
    assert seen.count("can write") == 3, seen
    return "; ".join(seen.splitlines())


@check
def its_exposure_is_small(machine: Machine) -> str:
    """`systemd-analyze security` of the running unit: at most 2.0 of 10"""
    said = machine.run("systemd-analyze security --no-pager frazil@titan1", BUSY)
    found = re.search(r"exposure level for frazil@titan1\.service: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= 2.0, said
    return found[1]


@check
def it_picks(machine: Machine) -> str:
    """A micrograph that appears is picked: STAR file, page, metrics, probes"""
    add(machine, "first.mrc")
    wait_picked(machine, "first.mrc")
    assert get(machine, "/")[0] == get(machine, "/healthz")[0] == get(machine, "/readyz")[0] == 200
    status, metrics = get(machine, "/metrics")
    assert status == 200
    assert re.search(r'frazil_micrographs_total\{outcome="picked"[^}]*\} [1-9]', metrics), metrics
    picks = machine.run("grep -c '^ *[0-9]' /data/titan1-picks/first_picks.star")
    return f"{picks} picks; page, /metrics, /healthz and /readyz answer 200"


@check
def its_journal_has_fields(machine: Machine) -> str:
    """`journalctl -o json`: each event is one entry, with fields"""
    (entry,) = journal(machine, "FRAZIL_EVENT=picked", "FRAZIL_MICROGRAPH=first.mrc")
    assert int(entry["FRAZIL_PICKS"]) > 0
    assert entry["PRIORITY"] == "6"
    assert entry["_SYSTEMD_UNIT"] == "frazil@titan1.service"
    return ", ".join(f"{name}={value}" for name, value in sorted(entry.items()) if name.startswith("FRAZIL_"))


@check
def it_reloads(machine: Machine) -> str:
    """`systemctl reload` returns once the promoted model serves; no restart"""
    pid = machine.run("systemctl show -P MainPID frazil@titan1")
    returned = machine.run(
        f"{FRAZIL} models promote /srv/models/discs 2 > /dev/null\nsystemctl reload frazil@titan1 && date +%s%6N",
        BUSY,
    )
    (entry,) = journal(machine, "FRAZIL_EVENT=model_loaded", "FRAZIL_MODEL=discs/2")
    assert int(entry["__REALTIME_TIMESTAMP"]) <= int(returned) + 1_000_000, "it returned before the model served"
    status = machine.wait("systemctl show -P StatusText frazil@titan1 | grep discs/2", BUSY)
    assert machine.run("systemctl show -P MainPID frazil@titan1") == pid
    return status


@check
def keys_are_credentials(machine: Machine) -> str:
    """A stream that others read, encrypted; root's own key comes by LoadCredential="""
    machine.run(
        "mkdir -p /etc/frazil/clients && umask 022\n"
        f"cd /etc/frazil && {FRAZIL} keys new . --name titan1 && cd /home/em && {FRAZIL} keys new . --name subscriber\n"
        "install -m 644 subscriber.key /etc/frazil/clients/ && chown em subscriber.*\n"
        "install -m 644 /etc/frazil/titan1.key /home/em/\n"
        "cat >> /etc/frazil/titan1.toml <<'T'\n"
        'publish = "tcp://0.0.0.0:5556"\n'
        'curve_key = "$CREDENTIALS_DIRECTORY/titan1.key_secret"\ncurve_clients = "/etc/frazil/clients"\nT\n'
        f"{FRAZIL} install-service titan1 && systemctl daemon-reload && systemctl restart frazil@titan1",
        BUSY,
    )
    said = machine.run(
        f"cd /home/em && runuser -u em -- {FRAZIL} listen tcp://127.0.0.1:5556 --since 1 --count 6 "
        f"--timeout {BUSY:g} --key subscriber.key_secret --server-key titan1.key",
        BUSY,
    )
    assert "first.mrc" in said, said
    owner = machine.run("stat -c '%U %a' /etc/frazil/titan1.key_secret")
    assert owner == "root 600", owner
    return f"titan1.key_secret is of {owner}; a client with a key read 6 documents"


# --- what goes wrong ------------------------------------------------------------------------------------------------


@check
def a_full_disk_is_waited_for(machine: Machine) -> str:
    """The disk of the results is full: picking waits, readiness says so, and goes on once there is room"""
    add(machine, "full.mrc", folder="/data/aside")
    machine.run(
        "for size in 1M 64k 1k; do dd if=/dev/zero of=/data/ballast-$size bs=$size status=none || true; done; sync"
    )
    machine.run("mv /data/aside/full.mrc /data/titan1/")
    (entry,) = [json.loads(machine.wait(event_of("output_blocked", "--output json"), BUSY).splitlines()[0])]
    status, said = get(machine, "/readyz")
    assert get(machine, "/healthz")[0] == 200
    machine.run("rm /data/ballast-*")
    wait_picked(machine, "full.mrc")
    machine.wait(event_of("output_free"), BUSY)
    assert get(machine, "/readyz")[0] == 200
    assert status == 503, said
    return f"{entry['MESSAGE']}; /readyz 503"


@check
def a_read_that_never_ends_is_ended(machine: Machine) -> str:
    """A network mount hangs: the stage is named, the watchdog ends the daemon, it picks when the mount is back"""
    machine.run(
        "mkdir -p /srv/remote /data/titan1/remote\n"
        "ssh-keyscan -t ed25519 127.0.0.1 > /root/.ssh/known_hosts 2>/dev/null\n"
        "sshfs -o allow_other,cache=no root@127.0.0.1:/srv/remote /data/titan1/remote"
    )
    add(machine, "whole.mrc", folder="/srv/remote")
    wait_picked(machine, "remote/whole.mrc")
    before = restarts(machine)
    machine.run("pkill -STOP -x sshfs")
    try:
        hang = machine.wait(event_of("hangs"), BUSY)
        machine.wait("journalctl --boot --unit frazil@titan1 --output cat | grep 'Watchdog timeout'", BUSY)
        machine.wait("journalctl --boot --unit frazil@titan1 --output cat | grep 'Current thread'", BUSY)
        time.sleep(30)  # it is started in vain while the mount hangs, and must not run out of starts
    finally:
        machine.run("pkill -CONT -x sshfs")
    add(machine, "after.mrc", folder="/srv/remote")
    wait_picked(machine, "remote/after.mrc")
    count = restarts(machine) - before
    machine.run("umount -l /data/titan1/remote")
    return f"{hang.splitlines()[0]}; {count} restarts"


@check
def a_stopped_process_is_killed(machine: Machine) -> str:
    """SIGSTOP: nothing feeds the watchdog, systemd kills and starts it again, and nothing is lost"""
    before = restarts(machine)
    machine.run("kill -STOP $(systemctl show -P MainPID frazil@titan1)")
    add(machine, "stopped.mrc")
    wait_picked(machine, "stopped.mrc")
    assert restarts(machine) == before + 1
    return last_line(machine, "Watchdog timeout")


def last_line(machine: Machine, words: str, unit: str = "frazil@titan1") -> str:
    """What systemd says of a unit, the last time with these words."""
    found = [e["MESSAGE"] for e in journal(machine, unit=unit) if words in str(e.get("MESSAGE"))]
    assert found, f"nothing in the journal says {words!r}"
    return found[-1]


@check
def restarts_have_a_limit(machine: Machine) -> str:
    """Killed ten times in half an hour it stays down until somebody looks; `reset-failed` and it starts"""
    machine.run("systemctl reset-failed frazil@titan1; systemctl restart frazil@titan1", BUSY)
    machine.wait(
        "state=$(systemctl show -P ActiveState frazil@titan1)\n"
        '[ "$state" = failed ] || { systemctl kill --signal KILL --kill-whom main frazil@titan1; false; }',
        BUSY,
    )
    count = restarts(machine)
    said = last_line(machine, "Start request repeated too quickly")
    machine.run("systemctl reset-failed frazil@titan1 && systemctl start frazil@titan1", BUSY)
    wait_active(machine)
    return f"after {count} restarts: {said}"


@check
def a_fault_in_the_settings_is_not_tried_again(machine: Machine) -> str:
    """A fault in the settings ends the start with status 78 and what to change; no restart"""
    machine.run("systemctl stop frazil@titan1 && sed -i 's/^diameter = 172/diameter = -1/' /etc/frazil/titan1.toml")
    status, _ = machine.try_run("systemctl start frazil@titan1", BUSY)
    assert status != 0
    code, state, count = machine.run(
        "for name in ExecMainStatus ActiveState NRestarts; do systemctl show -P $name frazil@titan1; done"
    ).split()
    assert (code, state, count) == ("78", "failed", "0"), (code, state, count)
    said = last_line(machine, "diameter")
    machine.run(
        "sed -i 's/^diameter = -1/diameter = 172/' /etc/frazil/titan1.toml && systemctl start frazil@titan1", BUSY
    )
    return f"status {code}, {count} restarts: {said}"


@check
def a_model_that_takes_too_much_memory_leaves_the_service_up(machine: Machine) -> str:
    """With MemoryMax=600M, a model that takes 1 GiB: its trial is ended, it is refused, and the service stays up"""
    machine.run("systemctl set-property --runtime frazil@titan1 MemoryMax=600M MemorySwapMax=0")
    before = restarts(machine)
    machine.run(
        "printf '3\\n2\\n' > /srv/models/discs/.CURRENT && mv /srv/models/discs/.CURRENT /srv/models/discs/CURRENT"
    )
    said = machine.wait("journalctl --boot --unit frazil@titan1 --output cat | grep 'discs/3' | grep refused", BUSY)
    add(machine, "small.mrc")
    wait_picked(machine, "small.mrc")
    peak = machine.run(
        "grep -E '^(max|oom_kill) ' /sys/fs/cgroup/system.slice/system-frazil.slice/frazil@titan1.service/memory.events"
    )
    assert restarts(machine) == before
    machine.run(
        "systemctl set-property --runtime frazil@titan1 MemoryMax=infinity\n"
        f"{FRAZIL} models promote /srv/models/discs 2"
    )
    return f"{said.splitlines()[0]}; {' '.join(peak.split())}"


@check
def another_watches_a_link_into_a_home(machine: Machine) -> str:
    """A second microscope beside the first; its folder is a link into /home, to be seen and not changed"""
    said = machine.run(
        "mkdir -p /home/em/collection && chown em /home/em/collection\n"
        "ln -sfn /home/em/collection /data/titan2\n"
        f"{FRAZIL} install-service titan2 --watch /data/titan2 --out /data/titan2-picks --diameter 172 --user em\n"
        "cat >> /etc/frazil/titan2.toml <<'T'\n"
        'model = "/srv/models/discs"\npublish = "tcp://127.0.0.1:5656"\nhttp = "127.0.0.1:9557"\nT\n'
        f"{FRAZIL} install-service titan2\n"
        "systemctl daemon-reload && systemctl start frazil@titan2",
        BUSY,
    )
    assert "/data/titan2 is a link to /home/em/collection" in said, said
    add(machine, "linked.mrc", folder="/home/em/collection")
    machine.wait("test -s /data/titan2-picks/linked_picks.star", BUSY)
    assert machine.run("systemctl is-active frazil@titan1 frazil@titan2").split() == ["active", "active"]
    said = machine.run("systemctl show -p ProtectHome -p NRestarts frazil@titan2")
    machine.run("systemctl stop frazil@titan2")
    return " ".join(said.split())


@check
def a_reboot_in_mid_session_without_its_data_loses_nothing(machine: Machine) -> str:
    """Rebooted with work in line, `/data` away: it waits and says so; `/data` is mounted later: one result each"""
    names = [f"reboot{i}.mrc" for i in range(8)]
    add(machine, *names)
    wait_picked(machine, names[0])
    machine.run(
        "sed -i 's/^LABEL=data .*/LABEL=away \\/data ext4 nofail,x-systemd.device-timeout=5s 0 2/' /etc/fstab; sync"
    )
    boot = machine.run("cat /proc/sys/kernel/random/boot_id")
    machine.try_run("systemctl reboot", 60)
    machine.wait_for_boot(before=boot)
    status = machine.wait("systemctl show -P StatusText frazil@titan1 | grep 'titan1-picks is not there'", BUSY)
    assert machine.run("systemctl show -P ActiveState frazil@titan1") == "activating"
    assert not machine.run("ls /data")
    machine.run(
        "sed -i 's/^LABEL=away .*/LABEL=data \\/data ext4 nofail 0 2/' /etc/fstab\n"
        "systemctl daemon-reload && mount /data"
    )
    wait_picked(machine, *names)
    assert restarts(machine) == 0
    return f"{status}; mounted: {numbers(machine)}"


@check
def micrographs_that_go_away_are_waited_for(machine: Machine) -> str:
    """The watched directory goes away and comes back while the service runs: it says so, stays up, and picks again"""
    machine.run("mv /data/titan1 /data/away")
    status = machine.wait("systemctl show -P StatusText frazil@titan1 | grep 'cannot see /data/titan1'", BUSY)
    machine.run("mv /data/away /data/titan1")
    add(machine, "back.mrc")
    wait_picked(machine, "back.mrc")
    assert restarts(machine) == 0
    return status


@check
def it_is_removed(machine: Machine) -> str:
    """Removed as the how-to says: results and ledger stay, and no unit, process or socket does"""
    machine.run(
        "systemctl disable --now frazil@titan1 frazil@titan2\n"
        "rm -r /etc/systemd/system/frazil@titan?.service.d /etc/frazil/titan?.toml\n"
        "rm /etc/systemd/system/frazil@.service\n"
        "systemctl daemon-reload\n"
        "rm -r /opt/frazil /opt/frazil-now /opt/frazil-before"
    )
    machine.run("test -s /data/titan1-picks/first_picks.star && test -s /var/lib/frazil/titan1/ledger.sqlite")
    left = machine.run(
        "systemctl list-unit-files --no-legend 'frazil*' || true; systemctl list-units --all --no-legend 'frazil*'\n"
        "pgrep -fl 'frazil serve' || true; ss -Hltn '( sport = 5556 or sport = 9457 )'"
    )
    assert not left, left
    return "STAR files and ledger are there; no unit, process or port is"


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
    parser.add_argument("--keep", action="store_true", help="leave the machine running at the end, until Ctrl-C")
    parser.add_argument("--only", metavar="WORDS", help="checks whose names hold these words, and the first two")
    arguments = parser.parse_args()
    check_needs()
    started = time.monotonic()
    folder = arguments.folder.resolve()
    image = find_image(folder)
    image.make()
    print(f"the disk is there after {time.monotonic() - started:.0f} s", flush=True)
    machine = Machine(image, make_payload(folder))
    print(f"booted after {time.monotonic() - started:.0f} s", flush=True)
    rows: list[tuple[str, str, float, bool]] = []
    try:
        for number, function in enumerate(CHECKS):
            if arguments.only and number >= 2 and arguments.only.replace(" ", "_") not in function.__name__:
                continue
            begun = time.monotonic()
            try:
                seen, passed = function(machine), True
            except Exception as error:  # noqa: BLE001 - whatever it is, the next check is tried
                seen, passed = f"{type(error).__name__}: {error}", False
                traceback.print_exc()
            took = time.monotonic() - begun
            print(f"{'ok    ' if passed else 'FAILED'} {took:5.0f} s  {function.__name__}: {seen}", flush=True)
            cell = " ".join(seen.replace("|", "\\|").split())[:300]
            rows.append((function.__doc__ or "", cell, took, passed))
        if arguments.keep:
            print(f"the machine still runs: {shlex.join(machine.ssh)}", flush=True)
            machine.wait_for_end()
    finally:
        machine.stop()
    if not arguments.only:
        PAGE.write_text(page(rows, time.monotonic() - started), "utf-8")
    sys.exit(not all(passed for *_, passed in rows))


if __name__ == "__main__":
    main()
