"""NVIDIA's binding to a driver as the settings of a simulated GPU host tell it. For PYTHONPATH, before the real one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_HOST = Path(__file__).resolve().parent.parent


class NVMLError(Exception):
    """As the real one, whose subclasses are named for what is wrong."""


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801 - the binding's name
    """There is no driver."""


def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((_HOST / "settings.json").read_text())
    settings["gpus"] = [gpu for gpu in settings["gpus"] if not gpu["hidden"]]
    return settings


def nvmlInit() -> None:
    if not _settings()["gpus"]:
        raise NVMLError_LibraryNotFound


def nvmlShutdown() -> None:
    pass


def nvmlSystemGetDriverVersion() -> str:
    return str(_settings()["driver"])


def nvmlDeviceGetCount() -> int:
    return len(_settings()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> Any:
    return SimpleNamespace(**_settings()["gpus"][index])


def nvmlDeviceGetName(handle: Any) -> str:
    return str(handle.name)


def nvmlDeviceGetUUID(handle: Any) -> str:
    return str(handle.uuid)


def nvmlDeviceGetMemoryInfo(handle: Any) -> Any:
    return SimpleNamespace(total=handle.memory_bytes)
