"""PresetService with invented answers."""

from typing import Any

from mediactl.v1 import preset_service_pb2, preset_service_pb2_grpc
from tests.fakes.calls import Calls


class FakePresets(Calls, preset_service_pb2_grpc.PresetServiceServicer):
    """Of one preset and one profile."""

    async def ListPresets(
        self, request: preset_service_pb2.ListPresetsRequest, context: Any
    ) -> preset_service_pb2.ListPresetsResponse:
        await self._enter("ListPresets", request, context)
        return preset_service_pb2.ListPresetsResponse(presets=[self._preset("")])

    async def GetPreset(
        self, request: preset_service_pb2.GetPresetRequest, context: Any
    ) -> preset_service_pb2.GetPresetResponse:
        await self._enter("GetPreset", request, context)
        return preset_service_pb2.GetPresetResponse(preset=self._preset('name = "loudness"'))

    def _preset(self, document: str) -> preset_service_pb2.Preset:
        return preset_service_pb2.Preset(
            full_name="loudness_v1",
            name="loudness",
            version=1,
            title="Loudness",
            roles=[preset_service_pb2.Role(name="audio", media="audio", default=True)],
            parameters=[
                preset_service_pb2.Parameter(
                    name="target_lufs", type="number", unit="LUFS", default_json="-16", min=-31, max=-9
                )
            ],
            default_profile="aac_192_v1",
            document=document,
        )

    async def AddPreset(
        self, request: preset_service_pb2.AddPresetRequest, context: Any
    ) -> preset_service_pb2.AddPresetResponse:
        await self._enter("AddPreset", request, context)
        return preset_service_pb2.AddPresetResponse(preset=self._preset(request.document))

    async def ListProfiles(
        self, request: preset_service_pb2.ListProfilesRequest, context: Any
    ) -> preset_service_pb2.ListProfilesResponse:
        await self._enter("ListProfiles", request, context)
        return preset_service_pb2.ListProfilesResponse(profiles=[self._profile()])

    async def GetProfile(
        self, request: preset_service_pb2.GetProfileRequest, context: Any
    ) -> preset_service_pb2.GetProfileResponse:
        await self._enter("GetProfile", request, context)
        return preset_service_pb2.GetProfileResponse(profile=self._profile())

    async def AddProfile(
        self, request: preset_service_pb2.AddProfileRequest, context: Any
    ) -> preset_service_pb2.AddProfileResponse:
        await self._enter("AddProfile", request, context)
        return preset_service_pb2.AddProfileResponse(profile=self._profile())

    def _profile(self) -> preset_service_pb2.Profile:
        return preset_service_pb2.Profile(full_name="aac_192_v1", container="mp4", extension="m4a")
