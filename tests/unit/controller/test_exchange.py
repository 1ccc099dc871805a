"""An agent's capabilities as the matcher sees them."""

from controller.core.fitting import lacks, too_small
from controller.offers import offer_of
from mediactl.v1.fleet_service_pb2 import Capabilities, FfmpegBinary, Gpu, Trial
from presets.capabilities import Alternative, Resources


def test_failed_trials_are_explained() -> None:
    """Whatever kind of capability it was that an agent could not prove, its own words are given for it."""
    trials = [
        Trial(encoder="h264_nvenc", device="gpu 0", message="the GPU has no encoder: …"),
        Trial(encoder="hwaccel:cuda", device="gpu 0", message="busy now, the GPU has no memory free: …"),
        Trial(encoder="filter:libvmaf", works=True),
    ]
    binary = FfmpegBinary(version="9.0", capabilities=["filter:libvmaf"], trials=trials)
    offer = offer_of("a", "box", {}, Capabilities(binaries=[binary], gpus=[Gpu(index=0, name="NVIDIA H100")]))
    needs = tuple(frozenset({name}) for name in ("encoder:h264_nvenc", "hwaccel:cuda", "filter:libvmaf"))
    assert lacks(offer, Alternative(needs)) == [
        "lacks encoder:h264_nvenc (trial failed: the GPU has no encoder: …)",
        "lacks hwaccel:cuda (trial failed: busy now, the GPU has no memory free: …)",
    ]
    assert too_small(offer, Resources(0, 0, encoder_sessions=1)) == ["has no GPU with 1 encoder sessions"]
