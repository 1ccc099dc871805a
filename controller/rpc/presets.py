"""PresetService."""

from __future__ import annotations

from typing import Any

import grpc

from controller.library import Library
from controller.rpc import messages
from controller.store.tables import DEFAULT_TENANT
from mediactl.v1 import preset_service_pb2 as pb
from mediactl.v1 import preset_service_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class PresetServicer(preset_service_pb2_grpc.PresetServiceServicer):
    """Reads and extends the library."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def ListPresets(self, request: pb.ListPresetsRequest, context: _Context) -> pb.ListPresetsResponse:
        catalog = await self._library.catalog(DEFAULT_TENANT)
        return pb.ListPresetsResponse(
            presets=[messages.preset(known, with_document=False) for known in catalog.presets]
        )

    async def GetPreset(self, request: pb.GetPresetRequest, context: _Context) -> pb.GetPresetResponse:
        catalog = await self._library.catalog(DEFAULT_TENANT)
        return pb.GetPresetResponse(preset=messages.preset(catalog.preset(request.name), with_document=True))

    async def AddPreset(self, request: pb.AddPresetRequest, context: _Context) -> pb.AddPresetResponse:
        added = await self._library.add_preset(DEFAULT_TENANT, request.document)
        return pb.AddPresetResponse(preset=messages.preset(added, with_document=True))

    async def ListProfiles(self, request: pb.ListProfilesRequest, context: _Context) -> pb.ListProfilesResponse:
        catalog = await self._library.catalog(DEFAULT_TENANT)
        return pb.ListProfilesResponse(
            profiles=[messages.profile(known, with_document=False) for known in catalog.profiles]
        )

    async def GetProfile(self, request: pb.GetProfileRequest, context: _Context) -> pb.GetProfileResponse:
        catalog = await self._library.catalog(DEFAULT_TENANT)
        return pb.GetProfileResponse(profile=messages.profile(catalog.profile(request.name), with_document=True))

    async def AddProfile(self, request: pb.AddProfileRequest, context: _Context) -> pb.AddProfileResponse:
        added = await self._library.add_profile(DEFAULT_TENANT, request.document)
        return pb.AddProfileResponse(profile=messages.profile(added, with_document=True))
