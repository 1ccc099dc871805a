"""Which NVIDIA GPUs there are."""

import os
import signal
import sys
from pathlib import Path

from google.protobuf.json_format import Parse, ParseError

from agent.detect.command import ask
from mediactl.v1 import fleet_service_pb2

TIMEOUT_S = 60.0
"""A driver that nothing keeps loaded initialises each GPU for a second or two when it is first asked."""

_PROGRAM = Path(__file__).with_name("nvml.py")


def gpus(*, timeout_s: float = TIMEOUT_S) -> tuple[list[fleet_service_pb2.Gpu], str]:
    """The GPUs, and in words why there are none or why some are missing (empty where nothing is wrong).

    The driver is asked by another process (:mod:`agent.detect.nvml`). One that crashes or hangs shows no GPU.
    """
    answer = ask([sys.executable, "-P", str(_PROGRAM)], timeout_s=timeout_s, environment=os.environ)
    if answer.code == 0:
        try:
            found = Parse(answer.stdout.splitlines()[-1], fleet_service_pb2.Capabilities())
        except (IndexError, ParseError):
            return [], "what the NVIDIA driver shows can't be read: see what nvidia-smi and dmesg say"
        return list(found.gpus), found.gpu_message
    if answer.code is None:
        return [], f"the NVIDIA driver did not answer within {timeout_s:g} s: see what nvidia-smi and dmesg say"
    if answer.code < 0:
        killed = signal.Signals(-answer.code).name
        return [], f"the NVIDIA driver crashed when it was asked ({killed}): see what nvidia-smi and dmesg say"
    last = (answer.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return [], f"the NVIDIA driver can't be asked: {last}"
