"""How much a plan writes: what room it needs before it runs, and what no honest run of it can exceed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from presets.document import AudioSpec, VideoSpec
from presets.facts import MediaFacts
from presets.formats import CODECS
from presets.intent import Intent
from presets.plan import ExpectedPicture, ExpectedStream, Invocation, Plan, Purpose

#: Encoders keep a bit rate on average only, and containers add an index.
_OVER_BIT_RATE = 1.1
#: Encodes of an output that lie in the workspace at once, where its loudness is corrected: a third one is rare.
_ENCODES = 2
#: Measurements of a limited programme before it is encoded: a fourth one is rare.
_REHEARSALS = 3
#: A measurement writes ten blocks of text a second: bytes a second, and more for each channel (FFmpeg 5.1 and 9.0).
_MEASURED_BYTES_PER_S = 2400
_MEASURED_BYTES_PER_S_AND_CHANNEL = 300
#: Two channels of 32-bit float at 48 kHz.
_RENDERED_BYTES_PER_S = 384_000
#: Headers, logs and reports.
_ASIDE_BYTES = 16 << 20
#: A run that writes this many times what it should is out of hand; the estimate may be wrong, but not by that much.
_OUT_OF_HAND = 4
_OUT_OF_HAND_BYTES = 64 << 20
#: Bits per second of media whose duration nobody states: low, so that the estimate is rather too high.
_UNSTATED_AUDIO = 96_000
_UNSTATED_VIDEO = 1_000_000
#: Of x264 at its usual quality; most pictures take half of it or less, film grain and water twice as much.
_BUSY_BITS_PER_PIXEL = 0.2
_USUAL_QUALITY = 23
_USUAL_FRAME_RATE = 30.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that a plan writes: ``total_bytes`` at the most at one time, ``encodes`` for each encode by output name.

    ``measurement_bytes`` is for each pass that measures.
    """

    total_bytes: int
    encodes: Mapping[str, int]
    measurement_bytes: int

    def bound(self, step: Invocation) -> int:
        """Bytes beyond which ``step`` is out of hand, whatever it does: several times what was estimated."""
        expected = self.measurement_bytes * (1 if step.levels is None else 2)
        if step.purpose is Purpose.ENCODE:
            expected = self.encodes[step.id.split(".")[1]]
        elif step.purpose is Purpose.RENDER:
            expected = step.renders_bytes or max(self.encodes.values())
        return _OUT_OF_HAND * expected + _OUT_OF_HAND_BYTES


def estimate(intent: Intent, facts: Sequence[MediaFacts], plan: Plan) -> Estimate:
    """What ``plan``, the one compiled before anything ran, writes of inputs with these ``facts``."""
    duration_s = max((step.media_s for step in plan.invocations if step.media_s), default=None) or _guessed_s(facts)
    encodes: dict[str, int] = {}
    total = _ASIDE_BYTES
    channels = 1
    for output, expected, report in zip(intent.outputs, plan.outputs, plan.measured, strict=True):
        document = output.profile.document
        if document.reports:
            # Itself it is nothing, but steps before it may render what it is of.
            encodes[output.name] = int(duration_s * _RENDERED_BYTES_PER_S)
            channels = max(channels, *(stream.channels for one in facts for stream in one.audio), 1)
            continue
        sound = [spec for spec in document.stream if isinstance(spec, AudioSpec)]
        # What the input lacks is not expected.
        rate = sum(_bytes_per_s(*both) for both in zip(sound, expected.streams, strict=False))
        channels = max(channels, *(stream.channels for stream in expected.streams), 1)
        for spec in document.stream:
            if isinstance(spec, VideoSpec) and expected.picture is not None:
                rate += _picture_bytes_per_s(spec, expected.picture, facts)
        encodes[output.name] = int(rate * duration_s)
        times = 1 if report.target_lufs is None else min(_ENCODES, document.delivery.max_encodes)
        total += times * encodes[output.name]
    measurement = int(duration_s * (_MEASURED_BYTES_PER_S + channels * _MEASURED_BYTES_PER_S_AND_CHANNEL))
    # As many verifications again as there are second encodes. An analysis writes levels beside the loudness.
    passes = sum(1 if step.levels is None else 2 for step in plan.invocations if step.measure is not None)
    passes += sum(not output.profile.document.reports for output in intent.outputs)
    if any(report.target_lufs is not None for report in plan.measured):
        passes += _REHEARSALS
    rendered = sum(step.renders_bytes for step in plan.invocations)
    return Estimate(total + rendered + passes * measurement, encodes, measurement)


def _bytes_per_s(spec: AudioSpec, expected: ExpectedStream) -> float:
    codec = CODECS[spec.codec]
    if codec.bitrates_kbps is not None:
        return (spec.bitrate_kbps or codec.bitrates_kbps[1]) * 1000 / 8 * _OVER_BIT_RATE
    bits: int = spec.bits or min(codec.depths, default=32)
    # A lossless codec may save nothing (noise), and its frames then cost a little.
    return expected.sample_rate_hz * expected.channels * bits / 8 * (1.0 if spec.codec.startswith("pcm_") else 1.02)


def _picture_bytes_per_s(spec: VideoSpec, expected: ExpectedPicture, facts: Sequence[MediaFacts]) -> float:
    """Constant quality has no rate: that of a rather busy picture, halved by every six steps of quality."""
    bits_per_pixel = _BUSY_BITS_PER_PIXEL * 2 ** ((_USUAL_QUALITY - spec.quality) / 6)
    rates = [stream.fps for one in facts for stream in one.video if stream.fps]
    return expected.width * expected.height * max(rates, default=_USUAL_FRAME_RATE) * bits_per_pixel / 8


def _guessed_s(facts: Sequence[MediaFacts]) -> float:
    """Seconds that inputs last at the most, if their headers do not say."""
    return max(
        (one.size_bytes * 8 / (one.bit_rate or (_UNSTATED_VIDEO if one.video else _UNSTATED_AUDIO)) for one in facts),
        default=0.0,
    )
