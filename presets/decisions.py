"""What the compiler chose and why, in words. It decides nothing itself."""

from collections.abc import Iterator, Sequence
from typing import assert_never

from presets import levels, picture
from presets.document import Hardware, ProfileDocument, VideoSpec
from presets.encoders import VIDEO_ENCODERS
from presets.facts import MediaFacts, OtherStream
from presets.graph import Source
from presets.plan import Decision, Loudness


def of_source(source: Source, facts: MediaFacts) -> Decision:
    """Which audio stream of an input is taken."""
    count = len(facts.audio)
    stream = source.stream
    return Decision(
        f"input {source.input} ({source.role})",
        f"audio track {source.position + 1} of {count}: {stream.codec}, {stream.sample_rate_hz} Hz, "
        f"{stream.channels} channel{'s' if stream.channels > 1 else ''}",
        "the only one" if count == 1 else "asked for, or else no commentary, default, most channels, first",
    )


def of_picture_source(index: int, role: str, facts: MediaFacts) -> Iterator[Decision]:
    """Which video stream of an input is taken, and that its sound is absent.

    :raises MediaFailure: as :func:`presets.picture.choose`.
    """
    stream = picture.choose(facts)
    count = len(facts.video)
    rate = "" if stream.fps is None else f", {stream.fps:.5g} fps"
    subject = f"input {index} ({role})"
    yield Decision(
        subject,
        f"video track {facts.video.index(stream) + 1} of {count}: {stream.codec}, {stream.width}x{stream.height}{rate}",
        "the only one" if count == 1 else "no still picture, default, first",
    )
    if not facts.audio:
        yield Decision(f"{subject}: sound", "none", "the input has no audio stream")


def of_video_encoder(output: str, name: str, spec: VideoSpec, gpu: int | None) -> Decision:
    """Which encoder makes the picture."""
    encoder = VIDEO_ENCODERS[name]
    choice = f"{name}, {encoder.quality_option} {spec.quality}"
    if encoder.hardware:
        where = "on any GPU" if gpu is None else f"on GPU {gpu}"
        because = "the profile requires it" if gpu is None else "a session of that GPU was granted"
        return Decision(f"{output}: encoder", f"{choice}, {where}", because)
    match spec.hardware:
        case Hardware.NEVER:
            because = "the profile uses no GPU"
        case Hardware.PREFER | Hardware.REQUIRE if gpu is not None:
            because = f"the encoder of GPU {gpu}, which was granted, takes no picture of this size"
        case Hardware.PREFER | Hardware.REQUIRE:
            because = "no session of a GPU was granted, which the profile prefers but does not require"
        case _:
            assert_never(spec.hardware)
    return Decision(f"{output}: encoder", choice, because)


def of_left_out(output: str, profile: ProfileDocument, facts: MediaFacts) -> Iterator[Decision]:
    """Streams of the input that a file with a picture does not get."""
    if facts.audio and profile.audio is None:
        yield Decision(f"{output}: sound", "left out", "the profile has no audio stream")
    kinds = sorted({stream.kind for stream in facts.streams if isinstance(stream, OtherStream)})
    if kinds:
        yield Decision(f"{output}: {' and '.join(kinds)}", "left out", "profiles have audio and video streams only")


def of_first_encode(
    output: str,
    goal: levels.Goal,
    aim: levels.Goal,
    before: Loudness,
    rehearsals: Sequence[levels.Trial],
    setting: levels.Setting,
) -> tuple[Decision, Decision]:
    """The gain and the limiter of the first encode."""
    if before.integrated_lufs is None:
        choice, because = "left as it is", "nothing is loud or long enough to have a loudness (EBU R128 gate)"
    else:
        choice = f"{setting.gain_db:+.2f} dB"
        because = (
            f"the programme measures {before.integrated_lufs:.1f} LUFS and {_dbtp(before)}, "
            f"{goal.target_lufs:g} LUFS is asked for"
        )
        if rehearsals:
            times = "once" if len(rehearsals) == 1 else f"{len(rehearsals)} times"
            because += f"; the limited programme was measured {times} to make up for what the limiter takes away"
        if before.integrated_lufs + setting.gain_db < goal.target_lufs - levels.TOLERANCE_LU:
            short = goal.target_lufs - before.integrated_lufs - setting.gain_db
            because += f"; {short:.1f} dB less, as at most {goal.max_reduction_db:g} dB may be limited"
        if aim.target_lufs > goal.target_lufs:
            because += f"; the encoder takes {aim.target_lufs - goal.target_lufs:.2f} dB off at this bitrate"
    gain = Decision(f"{output}: gain", choice, because)
    if setting.limited_by_db > 0:
        choice = f"true peaks to {setting.ceiling_dbtp:g} dBTP, by up to {setting.limited_by_db:.1f} dB"
        because = "with this gain the peaks would be above the ceiling"
        if (above_db := aim.target_lufs - goal.target_lufs + goal.ceiling_dbtp - aim.ceiling_dbtp) > 0:
            because += f", and such an encoder usually puts {above_db:.2f} dB on top of them"
        if setting.limited_by_db > goal.max_reduction_db:
            because += f"; over_peaks is {goal.over_peaks} where it takes more than {goal.max_reduction_db:g} dB"
    else:
        choice, because = "none", "the peaks have room for the gain, so it is linear"
    return gain, Decision(f"{output}: limiter", choice, because)


def of_encode(
    output: str,
    goal: levels.Goal,
    encodes: Sequence[levels.Trial],
    aim: levels.Goal | None,
    *,
    known: bool,
) -> Decision:
    """Whether the latest encode is delivered."""
    after = encodes[-1].after
    loudness = "no loudness" if after.integrated_lufs is None else f"{after.integrated_lufs:.2f} LUFS"
    if aim is not None:
        choice = f"encode again, aiming at {aim.target_lufs:.2f} LUFS and {aim.ceiling_dbtp:.2f} dBTP before the codec"
    elif levels.overshoot(goal, encodes[-1]) > levels.TOLERANCE_DB:
        choice = "no further encode is allowed; the best is delivered"
    else:
        choice = "delivered" if len(encodes) == 1 else "the best is delivered"
    measures = "the file is lossless, so what was measured before is in it:" if known else "the file measures"
    return Decision(f"{output}: encode {len(encodes)}", choice, f"{measures} {loudness}, {_dbtp(after)}")


def _dbtp(loudness: Loudness) -> str:
    return "no peak" if loudness.true_peak_dbtp is None else f"{loudness.true_peak_dbtp:.1f} dBTP"
