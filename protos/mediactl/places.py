"""Where this user's single box lives. Free of gRPC, so that a command line can ask quickly."""

import os
from pathlib import Path


def default_data_dir() -> Path:
    """Where this user's single box keeps its data: MEDIACTL_DATA_DIR, else `mediactl` under XDG_DATA_HOME."""
    given = os.environ.get("MEDIACTL_DATA_DIR")
    if given:
        return Path(given).absolute()
    base = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path here is invalid and to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "mediactl"


def box_socket(data_dir: Path) -> Path:
    """The socket of the single box that keeps its data there."""
    return data_dir / "mediactl.sock"


def default_address() -> str:
    """MEDIACTL_CONTROLLER, which may name several controllers, else the socket of this user's single box."""
    return os.environ.get("MEDIACTL_CONTROLLER") or f"unix:{box_socket(default_data_dir())}"
