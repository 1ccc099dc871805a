"""Which of several tracks is the dialogue."""

from dataclasses import replace
from typing import Any

import pytest

from presets.facts import AudioStream, MediaFacts, from_ffprobe
from presets.languages import same_language
from presets.operations import Extract
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.unit.presets.samples import audio, media


def _taken(*streams: AudioStream, **step: Any) -> int:
    return Extract.model_validate({"op": "extract", **step}).choose(media(*streams)).index


def test_the_default_comes_before_more_channels_and_those_before_the_first() -> None:
    """In that order."""
    assert _taken(audio(0), audio(1, channels=6), audio(2, default=True)) == 2
    assert _taken(audio(0), audio(1, channels=6)) == 1
    assert _taken(audio(0), audio(1)) == 0


def test_what_is_aside_comes_last_even_as_the_default() -> None:
    """Unless nothing else is there, or it is asked for."""
    aside = replace(audio(0, channels=6, default=True), aside=True)
    assert _taken(aside, audio(1, channels=1)) == 1
    assert _taken(aside) == 0
    assert _taken(aside, audio(1), track=1) == 0


def test_a_track_that_cannot_be_decoded_is_passed_over() -> None:
    """And refused, in words, where it is the only one or the one asked for."""
    strange = audio(0, codec="ac4", channels=6, default=True)
    assert _taken(strange, audio(1)) == 1
    with pytest.raises(MediaFailure, match="cannot be decoded: ac4") as caught:
        _taken(strange, audio(1), track=1)
    assert caught.value.reason is Reason.INPUT_CORRUPT


def test_a_language_is_found_by_any_of_its_codes() -> None:
    """Two letters, three of either kind, with a region; an unknown one by its letters."""
    streams = audio(0, language="eng"), audio(1, language="ger"), audio(2, language="gsw"), audio(3)
    for said in ("de", "deu", "GER", "de-CH", "de_AT"):
        assert _taken(*streams, language=said) == 1
    assert _taken(*streams, language="gsw") == 2
    with pytest.raises(MediaFailure, match="eng, ger, gsw, unknown"):
        _taken(*streams, language="fr")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [("en", "eng", True), ("en-US", "en_GB", True), ("fre", "fra", True), ("es", "est", False), ("", "und", False)],
)
def test_languages(first: str, second: str, same: bool) -> None:
    """Codes of one language are equal, similar letters are not."""
    assert same_language(first, second) is same


def _probed(**raw: Any) -> AudioStream:
    stream = {"codec_type": "audio", "codec_name": "aac", "sample_rate": "48000", "channels": 2, **raw}
    [found] = from_ffprobe({"format": {"format_name": "mov"}, "streams": [stream]}).audio
    return found


@pytest.mark.parametrize(
    "raw",
    [
        {"disposition": {"comment": 1}},
        {"disposition": {"visual_impaired": 1}},
        {"disposition": {"clean_effects": 1}},
        {"tags": {"title": "Director's Commentary"}},
        {"tags": {"handler_name": "Audiodeskription"}},
        {"tags": {"TITLE": "Hörfilmfassung"}},
        {"tags": {"title": "Music & Effects"}},
        {"tags": {"title": "M&E 5.1"}},
        {"tags": {"comment": "descriptive audio for the blind"}},
    ],
)
def test_what_is_aside_is_known_by_its_mark_or_its_title(raw: dict[str, Any]) -> None:
    """FFmpeg's dispositions, and the words that people write."""
    assert _probed(**raw).aside


@pytest.mark.parametrize(
    "raw",
    [{}, {"disposition": {"default": 1, "dub": 1}}, {"tags": {"title": "English 5.1"}}, {"tags": {"title": "Meme"}}],
)
def test_the_programme_is_not_aside(raw: dict[str, Any]) -> None:
    """Dubbed or original, whatever its title is."""
    assert not _probed(**raw).aside


def test_title_and_mark_survive_as_json() -> None:
    """What an agent found is what a replay sees."""
    facts = media(replace(audio(0), title="Kommentar", aside=True))
    assert MediaFacts.from_json(facts.to_json()) == facts
