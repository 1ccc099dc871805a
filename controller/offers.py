"""Agents as the matcher sees them, by what they say or by what is stored of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from controller.core.fitting import Gpu, Offer
from mediactl.v1 import fleet_service_pb2
from presets.capabilities import Resources, tried


def offer_of(
    agent_id: str,
    name: str,
    labels: Mapping[str, str],
    capabilities: fleet_service_pb2.Capabilities,
    *,
    revision: str = "",
    scratch_free: int | None = None,
) -> Offer:
    """An agent as the matcher sees it, with everything that it has altogether as free."""
    total = Resources(
        cores=capabilities.cores,
        memory_bytes=capabilities.memory_bytes,
        scratch_bytes=capabilities.scratch_bytes if scratch_free is None else scratch_free,
    )
    return Offer(
        agent_id=agent_id,
        name=name,
        labels=dict(labels),
        media_roots=(*capabilities.media_roots, *capabilities.stores),
        binaries=tuple(frozenset(binary.capabilities) for binary in capabilities.binaries),
        failed_trials={
            tried(trial.encoder): trial.message
            for binary in capabilities.binaries
            for trial in binary.trials
            if not trial.works
        },
        total=total,
        free=total,
        free_tasks=capabilities.max_tasks,
        revision=revision,
        gpus=tuple(
            Gpu(gpu.index, gpu.encoder_sessions, gpu.memory_bytes, gpu.encoder_sessions, gpu.memory_bytes)
            for gpu in capabilities.gpus
        ),
    )


def stored_offer(row: Any) -> Offer:
    """Of an agents row."""
    capabilities = json_format.Parse(row.capabilities, fleet_service_pb2.Capabilities(), ignore_unknown_fields=True)
    return offer_of(row.id, row.name, json.loads(row.labels), capabilities, revision=row.revision)
