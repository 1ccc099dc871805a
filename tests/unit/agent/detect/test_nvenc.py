"""Proving NVIDIA encoders by using them."""

from collections.abc import Sequence

import pytest

from agent.detect.command import Answer, ask
from agent.detect.nvenc import trial


def test_trial_that_works() -> None:
    """An encode that ends well proves the encoder on the GPU it was asked of."""
    asked: list[Sequence[str]] = []

    def works(argv: Sequence[str], *, timeout_s: float) -> Answer:
        assert timeout_s > 0
        asked.append(argv)
        return Answer(0, "", "")

    found = trial("/usr/bin/ffmpeg", "h264_nvenc", 1, ask=works)
    assert (found.encoder, found.device, found.works, found.message) == ("h264_nvenc", "gpu 1", True, "")
    (argv,) = asked
    assert argv[argv.index("-gpu") + 1] == "1"
    assert argv[argv.index("-c:v") + 1] == "h264_nvenc"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(1, "", "[h264_nvenc @ 0x5] [error] Cannot load libcuda.so.1\n"), "Cannot load libcuda.so.1"),
        (
            Answer(
                187,
                "",
                "[h264_nvenc @ 0x5] [error] Driver does not support the required nvenc API version. Required: 13.1\n"
                "[h264_nvenc @ 0x5] [error] The minimum required Nvidia driver for nvenc is 610.00 or newer\n",
            ),
            "Driver does not support the required nvenc API version. Required: 13.1; "
            "The minimum required Nvidia driver for nvenc is 610.00 or newer",
        ),
        (Answer(-11, "", ""), "exit code -11"),
        (Answer(None, "", "/usr/bin/ffmpeg did not end within 20 s"), "/usr/bin/ffmpeg did not end within 20 s"),
    ],
)
def test_trial_that_fails_keeps_the_reason(answer: Answer, message: str) -> None:
    """What FFmpeg says is kept, without addresses that differ from run to run; no GPU means no device is named."""
    found = trial("/usr/bin/ffmpeg", "h264_nvenc", None, ask=lambda *_args, **_kwargs: answer)
    assert (found.device, found.works, found.message) == ("", False, message)


def test_command_that_does_not_end() -> None:
    """A question is given up after its time."""
    answer = ask(["sleep", "300"], timeout_s=0.1)
    assert answer.code is None
    assert "did not end" in answer.stderr
