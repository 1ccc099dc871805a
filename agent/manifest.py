"""The document that makes several artifacts of a job a set: written last, so that who finds it finds all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from agent.records import plan_message
from agent.storage import Identity, Staged
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.capabilities import Binary
from presets.facts import MediaFacts
from presets.intent import MANIFEST, Intent, manifest_uri
from presets.plan import Plan

VERSION = 1


def uri(intent: Intent, job_id: str) -> str | None:
    """Where it goes; None: the job makes no set."""
    return manifest_uri([output.uri for output in intent.outputs], job_id)


def text(
    lease: pb.Lease,
    intent: Intent,
    plan: Plan,
    binary: Binary,
    inputs: Sequence[tuple[Identity, MediaFacts]],
    artifacts: Sequence[job_pb2.Artifact],
) -> str:
    """JSON: what went in, by which presets and FFmpeg, and what came out; messages in protobuf's own JSON form.

    An input's token is what its store tells versions apart by: the ETag of an object.
    """
    document = {
        "manifest": VERSION,
        "job": lease.job_id,
        "attempt": lease.attempt_id,
        "preset": intent.preset.full_name,
        "parameters": dict(intent.parameters),
        "documents": dict(lease.documents),
        "inputs": [
            {
                "role": ref.role,
                "uri": ref.uri,
                "sizeBytes": str(identity.size),
                "token": identity.token,
                "facts": facts.to_json(),
            }
            for ref, (identity, facts) in zip(intent.inputs, inputs, strict=True)
        ],
        "plan": _told(plan_message(plan, binary, lease.cores)),
        "artifacts": [_told(made) for made in artifacts],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _told(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return told


def redo_record(uri: str, staged: Staged) -> pb.RedoRecord:
    """To be published after those of the artifacts it lists."""
    artifact = job_pb2.Artifact(
        name=MANIFEST, uri=uri, size_bytes=staged.size, sha256=staged.sha256, container="manifest"
    )
    return pb.RedoRecord(artifact=artifact, staged_uri=staged.staged_uri)
