"""The single box as a service: one unit, and its children are watched as if each had its own."""

from __future__ import annotations

from tests.fakes.cli import until
from tests.systemd.machine import Machine

BOX = "mediactl-box.service"


def children(machine: Machine) -> dict[str, int]:
    """The box's processes by what they are."""
    told = machine.run("ps", "-o", "pid=,args=", "--ppid", machine.pid(BOX), code=None).stdout
    lines = [line.split(None, 1) for line in told.splitlines()]
    return {name: int(pid) for pid, args in lines for name in ("controller", "agent") if f"{name}.main" in args}


def test_a_box(machine: Machine) -> None:
    """Ready when both children are; a job of its user is done; a child that hangs brings all of it a new life."""
    machine.configure(BOX, "media", "ReadWritePaths=/srv/media", "WatchdogSec=4")
    machine.systemctl("start", BOX)
    first = machine.pid(BOX)
    assert "controller: serving" in machine.property(BOX, "StatusText")
    machine.run(
        "mediactl",
        *("--data-dir", "/var/lib/mediactl-box", "submit", "/srv/media/short.flac", "--preset", "convert"),
        *("--output", "/srv/media/", "--wait", "--wait-timeout", "30s"),
        user="mediactl",
    )
    assert machine.path("/srv/media/short.aac_192.m4a").exists()
    machine.kill(children(machine)["agent"], "STOP")
    second = machine.until_active(BOX, but_not=first)
    assert "the agent gives no sign of life and was killed" in machine.journal(BOX)
    assert children(machine).keys() == {"controller", "agent"}
    machine.systemctl("restart", BOX, within_s=15)
    assert machine.pid(BOX) != second
    machine.systemctl("stop", BOX, within_s=15)
    until(lambda: machine.run("pgrep", "-u", "mediactl", code=None).code == 1, "nothing of it is left", within_s=2)


def test_uninstalled(machine: Machine) -> None:
    """On a machine that runs: units end and are forgotten, programs go; data, settings and the user stay."""
    units = ("mediactl-controller.service", BOX)
    machine.systemctl("enable", "--now", *units)
    machine.run("/opt/checkout/deploy/install", "uninstall")
    for unit in units:
        assert machine.property(unit, "LoadState") == "not-found"
        assert machine.property(unit, "ActiveState") == "inactive"
    assert not [*machine.path("/usr/local/bin").glob("mediactl*"), *machine.path("/opt/mediactl").glob("*")]
    machine.run("id", "mediactl")
    for kept in ("/etc/mediactl/agent.toml", "/var/lib/mediactl/mediactl.db", "/var/lib/mediactl-box/mediactl.db"):
        assert machine.path(kept).exists(), kept


def test_installed_again(machine: Machine) -> None:
    """Its files come back, and systemd knows the units without being told."""
    machine.run("/opt/checkout/deploy/install", "files")
    assert machine.property(BOX, "LoadState") == "loaded"
    assert machine.path("/etc/mediactl/agent.toml").read_text(encoding="utf-8").startswith("\ncontroller")
