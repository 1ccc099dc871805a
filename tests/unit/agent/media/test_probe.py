"""Asking ffprobe, with scripts in its place."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agent.media.probe import probe
from presets.problems import MediaFailure
from presets.reasons import Reason

Script = Callable[[str], str]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]
NumberIn = Callable[[Path], int]
Alive = Callable[[int], bool]

_DOCUMENT = (
    '{"streams": [{"index": 0, "codec_type": "audio", "codec_name": "pcm_s16le", "sample_rate": "48000",'
    ' "channels": 2}], "format": {"format_name": "wav", "duration": "1.5", "size": "4"}}'
)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0").write_bytes(b"RIFF")
    return Path("in/0")


def words_of(file: Path) -> list[str]:
    return file.read_text().split()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def refusal(program: str, path: Path, cwd: Path, timeout_s: float = 20.0) -> MediaFailure:
    with pytest.raises(MediaFailure) as caught:
        await probe(program, path, cwd=cwd, timeout_s=timeout_s)
    return caught.value


async def test_facts(script: Script, media: Path, tmp_path: Path) -> None:
    """The document becomes facts; playlists and protocols are shut out by the options; no file is left behind."""
    program = script(f"printf '%s ' \"$@\" > args; cat <<'X'\n{_DOCUMENT}\nX")
    facts = await probe(program, media, cwd=tmp_path)
    assert facts.format_name == "wav"
    assert facts.audio[0].channels == 2
    arguments = words_of(tmp_path / "args")
    assert arguments[-1] == "file:in/0"
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"
    assert "hls" not in arguments[arguments.index("-format_whitelist") + 1].split(",")
    assert names_in(tmp_path) == ["args", "in", "program"]


async def test_empty_file_is_not_even_probed(script: Script, media: Path, tmp_path: Path) -> None:
    """Zero bytes are INPUT_EMPTY without starting anything."""
    (tmp_path / media).write_bytes(b"")
    assert (await refusal(script("touch started"), media, tmp_path)).reason is Reason.INPUT_EMPTY
    assert not (tmp_path / "started").exists()


async def test_missing_file(script: Script, tmp_path: Path) -> None:
    """A file that is gone is INPUT_NOT_FOUND."""
    assert (await refusal(script(""), Path("in/0"), tmp_path)).reason is Reason.INPUT_NOT_FOUND


async def test_refusal_quotes_ffprobe(script: Script, media: Path, tmp_path: Path) -> None:
    """What is no media is INPUT_CORRUPT, in ffprobe's words but without the workspace's name of the file."""
    program = script("echo '[error] file:in/0: Invalid data found when processing input' >&2; exit 1")
    failure = await refusal(program, media, tmp_path)
    assert failure.reason is Reason.INPUT_CORRUPT
    assert failure.message.endswith(": Invalid data found when processing input")
    assert "in/0" not in failure.message


async def test_a_format_that_is_not_taken_is_told_in_words(script: Script, media: Path, tmp_path: Path) -> None:
    """Not by the list of sixty that are."""
    said = "[hls @ 0x1] [error] Format not on whitelist 'aac,ac3'\\n[error] file:in/0: Invalid argument"
    failure = await refusal(script(f'printf "{said}" >&2; exit 1'), media, tmp_path)
    assert failure.reason is Reason.INPUT_CORRUPT
    assert failure.message.endswith("; of a playlist give the files that it names")


async def test_a_file_that_says_too_much_of_itself(
    script: Script, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether in streams or in tags: it is not read, and the reason is told."""
    monkeypatch.setattr("agent.media.probe._DOCUMENT_LIMIT_BYTES", 10)
    failure = await refusal(script(f"echo '{_DOCUMENT}'"), media, tmp_path)
    assert failure.reason is Reason.INPUT_CORRUPT
    assert "in streams, chapters and tags" in failure.message


@pytest.mark.parametrize("document", ["{}", "[]", "nonsense", '{"format": {"format_name": "wav"}}'])
async def test_document_without_media(script: Script, media: Path, tmp_path: Path, document: str) -> None:
    """A document that describes no media is INPUT_CORRUPT."""
    failure = await refusal(script(f"echo '{document}'"), media, tmp_path)
    assert failure.reason is Reason.INPUT_CORRUPT


async def test_tags_in_any_encoding(script: Script, media: Path, tmp_path: Path) -> None:
    """Bytes that are no UTF-8, which tags may hold, do not hinder."""
    document = _DOCUMENT.replace('"size"', '"tags": {"title": "\\377"}, "size"')
    assert (await probe(script(f"printf '{document}'"), media, cwd=tmp_path)).format_name == "wav"


async def test_endless_probe_is_killed(
    script: Script, media: Path, tmp_path: Path, number_in: NumberIn, alive: Alive
) -> None:
    """A probe that does not end is killed after its time: TIMED_OUT."""
    failure = await refusal(script("echo $$ > pid; exec sleep 300"), media, tmp_path, timeout_s=0.5)
    assert failure.reason is Reason.TIMED_OUT
    assert not alive(number_in(tmp_path / "pid"))


async def test_cancelled_probe_is_killed(
    script: Script, media: Path, tmp_path: Path, until: Until, number_in: NumberIn, alive: Alive
) -> None:
    """Cancelling the task leaves no ffprobe behind."""
    task = asyncio.create_task(probe(script("echo $$ > pid; exec sleep 300"), media, cwd=tmp_path))
    pid = tmp_path / "pid"
    await until(lambda: number_in(pid))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(number_in(pid))


async def test_missing_ffprobe(media: Path, tmp_path: Path) -> None:
    """An ffprobe that is not there is the agent's fault, not the input's."""
    assert (await refusal("/nonexistent/ffprobe", media, tmp_path)).reason is Reason.INTERNAL
