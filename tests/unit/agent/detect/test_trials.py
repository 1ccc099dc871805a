"""Proving by use."""

from collections.abc import Sequence

import pytest

from agent.detect.command import Answer, ask
from agent.detect.trials import DECODING, VMAF, busy, planned, trial


def test_trial_that_works() -> None:
    """An encode that ends well proves the encoder on the GPU it was asked of."""
    asked: list[Sequence[str]] = []

    def works(argv: Sequence[str], *, timeout_s: float) -> Answer:
        assert timeout_s > 0
        asked.append(argv)
        return Answer(0, "", "")

    outcome = trial("/usr/bin/ffmpeg", "h264_nvenc", 1, ask=works)
    found = outcome.trial
    assert outcome.lasting
    assert (found.encoder, found.device, found.works, found.message) == ("h264_nvenc", "gpu 1", True, "")
    (argv,) = asked
    assert argv[argv.index("-gpu") + 1] == "1"
    assert argv[argv.index("-c:v") + 1] == "h264_nvenc"


_NONE = "[h264_nvenc @ 0x5] [fatal] No capable devices found\n"
_AFTER = "[vost#0:0/h264_nvenc @ 0x5] [enc:h264_nvenc @ 0x5] [error] Error while opening encoder - maybe incorrect\n"


@pytest.mark.parametrize(
    ("answer", "message", "lasting"),
    [
        (
            Answer(1, "", f"[h264_nvenc @ 0x5] [error] Cannot load libnvidia-encode.so.1\n{_AFTER}"),
            "the NVIDIA driver is not installed, or not whole: Cannot load libnvidia-encode.so.1",
            False,
        ),
        (
            Answer(
                218,
                "",
                "[h264_nvenc @ 0x5] [error] Driver does not support the required nvenc API version. Required: 13.1 "
                "Found: 11.0\n"
                f"[h264_nvenc @ 0x5] [error] The minimum required Nvidia driver for nvenc is 610.00 or newer\n{_AFTER}",
            ),
            "the NVIDIA driver is too old for this FFmpeg: Driver does not support the required nvenc API version. "
            "Required: 13.1 Found: 11.0; The minimum required Nvidia driver for nvenc is 610.00 or newer",
            True,
        ),
        (
            Answer(
                187,
                "",
                f"[h264_nvenc @ 0x5] [error] OpenEncodeSessionEx failed: unsupported device (2): (no details)\n{_NONE}",
            ),
            "the GPU has no encoder: OpenEncodeSessionEx failed: unsupported device (2): (no details); "
            "No capable devices found",
            True,
        ),
        (
            Answer(
                187,
                "",
                f"[h264_nvenc @ 0x5] [error] OpenEncodeSessionEx failed: out of memory (10): (no details)\n{_NONE}",
            ),
            "busy now, the GPU has no encoder session free: OpenEncodeSessionEx failed: out of memory (10): "
            "(no details); No capable devices found",
            False,
        ),
        (
            Answer(187, "", f"[av1_nvenc @ 0x5] [warning] Codec not supported\n{_NONE.replace('h264', 'av1')}{_AFTER}"),
            "the GPU cannot encode this: Codec not supported; No capable devices found",
            True,
        ),
        (Answer(-11, "", ""), "exit code -11", False),
        (Answer(None, "", "/usr/bin/ffmpeg did not end within 20 s"), "/usr/bin/ffmpeg did not end within 20 s", False),
    ],
    ids=["half a driver", "old driver", "no encoder", "busy", "no such codec", "crash", "hang"],
)
def test_trial_that_fails_keeps_the_reason(answer: Answer, message: str, lasting: bool) -> None:
    """What FFmpeg says is kept after words for a person; what cannot pass by itself counts as lasting."""
    outcome = trial("/usr/bin/ffmpeg", "h264_nvenc", 0, ask=lambda *_args, **_kwargs: answer)
    assert (outcome.trial.device, outcome.trial.works, outcome.trial.message) == ("gpu 0", False, message)
    assert outcome.lasting is lasting
    assert busy(outcome.trial) == message.startswith("busy now")


def test_without_a_gpu_a_failure_lasts_and_a_success_does_not() -> None:
    """No device is named; a driver that comes brings GPUs, which void what was remembered."""
    said = Answer(1, "", "[h264_nvenc @ 0x5] [error] Cannot load libcuda.so.1")
    failed = trial("/usr/bin/ffmpeg", "h264_nvenc", None, ask=lambda *_args, **_kwargs: said)
    assert (failed.trial.device, failed.trial.works, failed.lasting) == ("", False, True)
    worked = trial("/usr/bin/ffmpeg", "h264_nvenc", None, ask=lambda *_args, **_kwargs: Answer(0, "", ""))
    assert (worked.trial.works, worked.lasting) == (True, False)


def test_every_use_on_every_gpu() -> None:
    """GPU by GPU; without one encoders are tried once for the reason, decoding is not, and filters need none."""
    names = {"hevc_nvenc", DECODING, VMAF}
    assert [*planned(names, [0, 2])] == [
        (VMAF, None),
        ("hevc_nvenc", 0),
        (DECODING, 0),
        ("hevc_nvenc", 2),
        (DECODING, 2),
    ]
    assert [*planned(names, [])] == [(VMAF, None), ("hevc_nvenc", None)]


def test_command_that_does_not_end() -> None:
    """A question is given up after its time."""
    answer = ask(["sleep", "300"], timeout_s=0.1)
    assert answer.code is None
    assert "did not end" in answer.stderr
