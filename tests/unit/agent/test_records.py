"""What the executor knows, as the messages that report it."""

from dataclasses import replace

from agent.records import redo_record
from agent.storage import Staged
from presets.plan import Expectation, ExpectedPicture, ExpectedStream
from tests.unit.presets.samples import audio, intent, media, picture

SOUND = Expectation("aac_192", "out/a.m4a", "file:///o", "mp4", (ExpectedStream("aac", 48_000, 2),), 60.0, "v", 60.02)


def test_streams_are_told_in_a_few_words() -> None:
    """Of a picture codec, size and mean rate, of sound codec, rate and layout; the picture first."""
    film = media(
        audio(0, codec="aac"), picture(1, size=(1280, 720), fps=30000 / 1001, base_fps="30000/1001"), format_name="mov"
    )
    made = intent("video_convert", profiles=("h264_mp4",))
    expected = replace(SOUND, picture=ExpectedPicture("h264", 1280, 720, "yuv420p", frames=9, decoded_frames=9))
    staged = Staged("file:///.staged", 5, "ab")
    artifact = redo_record(made.outputs[0], expected, None, film, staged, made).artifact
    assert list(artifact.streams) == ["h264 1280x720 29.97 fps", "aac 48000 Hz stereo"]
    # Decoding shows where the last frame begins, the container how long it is shown.
    assert artifact.duration_seconds == 60.0
    sound = redo_record(made.outputs[0], SOUND, None, media(audio(codec="aac")), staged, made).artifact
    assert (list(sound.streams), sound.duration_seconds) == (["aac 48000 Hz stereo"], 60.02)
