"""EC2 is known by its firmware."""

from pathlib import Path

import pytest

from agent.detect.cloud import on_ec2


@pytest.mark.parametrize(
    ("file", "text", "ec2"),
    [
        ("sys/class/dmi/id/sys_vendor", "Amazon EC2\n", True),
        ("sys/class/dmi/id/board_vendor", "Amazon EC2\n", True),
        ("sys/class/dmi/id/bios_version", "4.11.amazon\n", True),
        ("sys/hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n", True),
        ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n", False),
        ("sys/class/dmi/id/sys_vendor", "QEMU\n", False),
        ("sys/hypervisor/uuid", "aec2e191-9099-7caf-fd21-012345abcdef\n", False),
        ("etc/hostname", "ec2\n", False),
    ],
)
def test_firmware_tells(tmp_path: Path, file: str, text: str, ec2: bool) -> None:
    """Nitro and Xen; other hosts, containers without firmware among them, are none."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert on_ec2(system=tmp_path) is ec2
