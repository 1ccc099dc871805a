"""What is known of the real recordings."""

from collections.abc import Mapping

from presets.reasons import Reason

#: What those end as that have no sound that could be used; every other one gives a verified output.
DEFECTIVE: Mapping[str, Reason] = {
    "bbb-800x640-h264.mp4": Reason.INPUT_NO_AUDIO,
    "missing-dts.ts": Reason.INPUT_NO_AUDIO,
    "no-keyframe.ts": Reason.INPUT_NO_AUDIO,
    "odd-dimensions-vp9.webm": Reason.INPUT_NO_AUDIO,
    "portrait.ts": Reason.INPUT_NO_AUDIO,
    "truncated-after-moov.m4b": Reason.INPUT_TRUNCATED,
    "DancingScript-Regular.ttf": Reason.INPUT_CORRUPT,
    "friday.vtt": Reason.INPUT_CORRUPT,
}
