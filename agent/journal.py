"""What an attempt has learnt and done, kept in its workspace: another life of the agent goes on from there."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from google.protobuf.message import DecodeError

from agent.media.usage import Usage
from agent.storage import Identity
from agent.workspace import Workspace
from mediactl.v1 import agent_service_pb2 as pb
from presets.facts import MediaFacts
from presets.plan import StepResult

VERSION = 1
"""Of the entries. One that another version could not read has another number."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Journal:
    """The memory of one attempt. `open` first; what is there then is what a former life of the agent wrote.

    The methods that write block for as long as a write to the page cache takes, and raise OSError.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.begun_s = 0.0
        """When the attempt began, on the machine's monotonic clock."""
        self.binary = ""
        self.inputs: list[tuple[Identity, MediaFacts]] = []
        self.steps: dict[str, tuple[StepResult, Usage]] = {}
        self.staged: list[pb.RedoRecord] = []

    def open(self, lease: pb.Lease) -> None:
        """Create the workspace, or read what it holds. Raises OSError, or ValueError where it is damaged."""
        self._workspace.create()
        entries = self._workspace.entries()
        if not entries:
            draft = self._workspace.lease.with_suffix(".new")
            draft.write_bytes(lease.SerializeToString())
            draft.replace(self._workspace.lease)
            self.begun_s = time.monotonic()
            self._workspace.record({"journal": VERSION, "boot": boot_id(), "begun_s": self.begun_s})
            return
        for entry in entries:
            match entry:
                case {"begun_s": begun_s}:
                    self.begun_s = begun_s
                case {"binary": digest}:
                    self._begin(digest)
                case {"inputs": inputs}:
                    self.inputs = [
                        (Identity(each["size"], each["token"]), MediaFacts.from_json(each["facts"])) for each in inputs
                    ]
                case {"step": step, "result": result, "used": used}:
                    self.steps[step] = (StepResult.from_json(result), Usage(**used))
                case {"staged": redo}:
                    self.staged.append(pb.RedoRecord.FromString(base64.b64decode(redo)))
                case _:
                    raise ValueError(f"{self._workspace.journal}: an entry that this version does not know")

    def _begin(self, binary: str) -> None:
        self.binary = binary
        self.inputs.clear()
        self.steps.clear()
        self.staged.clear()

    def begin(self, binary: str) -> None:
        """From here on with the binary of this digest: what was done with another one counts no more."""
        self._workspace.forget_steps()
        self._begin(binary)
        self._workspace.record({"binary": binary})

    def fetched(self, inputs: Sequence[tuple[Identity, MediaFacts]]) -> None:
        """The inputs are in the workspace and were probed."""
        self._workspace.record(
            {
                "inputs": [
                    {"size": identity.size, "token": identity.token, "facts": facts.to_json()}
                    for identity, facts in inputs
                ]
            }
        )

    def did(self, step: str, result: StepResult, used: Usage) -> None:
        """A step succeeded."""
        self._workspace.record({"step": step, "result": result.to_json(), "used": asdict(used)})

    def has_staged(self, redo: pb.RedoRecord) -> None:
        """An output is staged."""
        self._workspace.record({"staged": base64.b64encode(redo.SerializeToString()).decode()})


def left_lease(workspace: Workspace) -> pb.Lease | None:
    """The lease of an attempt that can be taken up again; None where there is none, or where it was begun before the
    last boot of the machine or by a version that kept another kind of journal."""
    try:
        entries = workspace.entries()
        if not entries or (entries[0].get("journal"), entries[0].get("boot")) != (VERSION, boot_id()):
            return None
        lease = pb.Lease.FromString(workspace.lease.read_bytes())
        return lease if lease.attempt_id == workspace.attempt_id else None
    except (OSError, ValueError, DecodeError):
        return None


def boot_id() -> str:
    """Another one after each start of the machine: nothing of before can still run."""
    return _BOOT_ID.read_text(encoding="ascii").strip()
