"""Who this agent is: an id it keeps, and what tells this machine from a copy of it."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path


def agent_id(data_dir: Path) -> str:
    """The id in `agent-id`, made at the first start and where the file is damaged. Deleting it makes a new agent."""
    path = data_dir / "agent-id"
    try:
        known = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        known = ""
    if known and known.isascii() and known.isprintable():
        return known
    fresh = secrets.token_hex(8)
    draft = path.with_suffix(".new")
    with draft.open("w", encoding="ascii") as file:
        file.write(fresh + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return fresh


def instance_id(*, system: Path = Path("/")) -> str:
    """A digest of what a copied disk image does not take along: hardware id, network addresses, host name."""
    parts = []
    for name in ("sys/class/dmi/id/product_uuid", "etc/machine-id", "proc/sys/kernel/hostname"):
        try:
            parts.append((system / name).read_text().strip())
        except OSError:
            parts.append("")
    for address in sorted((system / "sys/class/net").glob("*/address")):
        # Virtual interfaces come and go with containers; those of hardware stay.
        if (address.parent / "device").exists():
            parts.append(address.read_text().strip())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
