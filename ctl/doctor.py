"""`mediactl doctor`: what this machine can do, what is missing and how to get it."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any, Final

import click
from google.protobuf import json_format
from rich.text import Text

from ctl import box, render
from ctl.agents import capability_rows
from ctl.settings import Format, Settings
from ctl.tree import command
from mediactl.places import box_socket
from mediactl.v1 import fleet_service_pb2

_DEADLINE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    ok: bool
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """What detection said."""

    capabilities: fleet_service_pb2.Capabilities
    findings: tuple[Finding, ...]

    @property
    def able(self) -> bool:
        """Whether work can be done at all."""
        return bool(self.capabilities.binaries and self.capabilities.ffprobe_path)


@command("doctor")
def doctor(settings: Settings) -> int:
    """Say what this machine can do, what is missing and how to get it. Starts no server.

    Exit code 0: there are an ffmpeg and an ffprobe, so work can be done; 1: there are not.

    \b
    Example:
      mediactl doctor
    """
    report = read(_detect(settings))
    running = box.answers(settings.data_dir)
    if settings.format is not Format.TABLE:
        render.write(
            {
                "capabilities": render.data(report.capabilities),
                "findings": [
                    {"subject": one.subject, "ok": one.ok, "detail": one.detail, "remedy": one.remedy}
                    for one in report.findings
                ],
                "box": {
                    "running": running,
                    "dataDir": str(settings.data_dir),
                    "socket": str(box_socket(settings.data_dir)),
                },
            },
            settings,
        )
        return 0 if report.able else 1
    _tell(report, running, settings)
    return 0 if report.able else 1


def read(output: str) -> Report:
    """What `mediactl-agent detect --json` printed.

    Raises click.ClickException where it is something else.
    """
    try:
        document: Any = json.loads(output)
        capabilities = json_format.ParseDict(
            document["capabilities"], fleet_service_pb2.Capabilities(), ignore_unknown_fields=True
        )
        findings = tuple(
            Finding(str(one["subject"]), bool(one["ok"]), str(one["detail"]), str(one["remedy"] or ""))
            for one in document["findings"]
        )
    except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
        raise click.ClickException(f"detection did not say what was expected: {error}") from None
    return Report(capabilities, findings)


def _detect(settings: Settings) -> str:
    arguments = ["detect", "--json", "--data-dir", str(settings.data_dir / "agent")]
    try:
        done = subprocess.run(
            box.module_command("agent.main", *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise click.ClickException(f"detection did not end in {_DEADLINE_S:g} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise click.ClickException(f"detection failed with exit code {done.returncode}: {last}")
    return done.stdout


def _tell(report: Report, running: bool, settings: Settings) -> None:
    out = render.console(settings)
    for finding in report.findings:
        mark = Text("✓ ", style="green") if finding.ok else Text("✗ ", style="red")
        out.print(mark + Text(render.plain(f"{finding.subject}: {finding.detail}")))
        if finding.remedy and not finding.ok:
            out.print(Text(render.plain(f"    {finding.remedy}")))
    print()
    render.details(
        settings,
        [
            *capability_rows(report.capabilities),
            ("your own box", "is running" if running else "is not running; it starts when it is needed"),
            ("its data", str(settings.data_dir)),
        ],
    )
    if not report.able:
        out.print(Text("\nNothing can be processed here until ffmpeg and ffprobe are installed.", style="red"))
