"""The library and what is added to it."""

import pytest

from presets.catalog import Catalog, Preset
from presets.parse import InvalidDocument
from presets.problems import InvalidRequest
from presets.reasons import Reason
from tests.unit.presets.test_parse import PRESET, PROFILE

LIBRARY = Catalog.shipped()


def _reason(act: object) -> Reason:
    with pytest.raises(InvalidRequest) as caught:
        act()  # type: ignore[operator]  # a lambda of the test
    return caught.value.problems[0].reason


def test_the_shipped_library_is_complete() -> None:
    """What the manual speaks of is there, sorted, and is loaded once."""
    presets, profiles = ([p.full_name for p in kind] for kind in (LIBRARY.presets, LIBRARY.profiles))
    assert presets == sorted(presets)
    assert profiles == sorted(profiles)
    assert {"convert_v1", "dialogue_clean_v1", "loudness_podcast_v1", "video_convert_v1"} <= set(presets)
    assert {"aac_192_v1", "audio_only_master_v1", "flac_v1", "h264_mp4_v1"} <= set(profiles)
    assert Catalog.shipped() is LIBRARY
    assert all(p.title and p.description for p in LIBRARY.presets)


def test_every_shipped_preset_has_checks_and_a_default_profile() -> None:
    """A preset without a check is a promise that nobody tests."""
    for preset in LIBRARY.presets:
        assert preset.document.check
        assert LIBRARY.profile(preset.document.default_profile).full_name == preset.document.default_profile


def test_the_targets_of_the_recommendations_are_what_they_say() -> None:
    """EBU R128 is -23 LUFS without a parameter; podcasts are -16 between -31 and -9."""
    r128 = LIBRARY.preset("loudness_ebu_r128").document
    assert r128.parameters == {}
    assert dict(r128.chain["programme_out"].steps[-1])["target_lufs"] == -23
    target = LIBRARY.preset("loudness_podcast").document.parameters["target_lufs"]
    assert (target.type, target.default) == ("number", -16)


def test_a_name_alone_means_the_newest_version() -> None:
    """Versions are compared as numbers, and a full name stays what it was."""
    catalog = LIBRARY.with_documents([PRESET.replace("version = 1", f"version = {n}") for n in (2, 10, 1)], [])
    assert catalog.preset("voice_and_music").full_name == "voice_and_music_v10"
    assert catalog.preset("voice_and_music_v2").version == 2


def test_unknown_names_get_close_ones() -> None:
    """A typing mistake is answered with what was meant; a wrong version with those there are."""
    with pytest.raises(InvalidRequest, match="did you mean dialogue_clean") as caught:
        LIBRARY.preset("dialog_clean")
    assert caught.value.problems[0].reason is Reason.PRESET_NOT_FOUND
    with pytest.raises(InvalidRequest, match="there is dialogue_clean_v1"):
        LIBRARY.preset("dialogue_clean_v7")
    assert _reason(lambda: LIBRARY.profile("acc_192")) is Reason.PROFILE_NOT_FOUND


def test_a_version_never_changes() -> None:
    """The same document may be added again; another one under the same version may not."""
    catalog = LIBRARY.with_documents([PRESET], [])
    again = catalog.with_documents([PRESET + "# a remark\n"], [])
    assert again.preset("voice_and_music_v1").digest == catalog.preset("voice_and_music_v1").digest
    changed = PRESET.replace("hz = 80", "hz = 90")
    assert _reason(lambda: catalog.with_documents([changed], [])) is Reason.PRESET_CONFLICT
    assert _reason(lambda: LIBRARY.with_documents([], [PROFILE])) is Reason.PRESET_CONFLICT


def test_a_default_profile_must_exist() -> None:
    """A preset that names a profile which is not there is refused when it is added, not when it is used."""
    text = PRESET.replace("audio_only_master_v1", "audio_only_mastr_v1")
    assert _reason(lambda: LIBRARY.with_documents([text], [])) is Reason.PROFILE_NOT_FOUND
    with pytest.raises(InvalidDocument):
        LIBRARY.with_documents(["name = 1"], [])


def test_the_digest_is_of_the_meaning_and_of_the_operations() -> None:
    """Comments and order do not matter to it; every value does, and so does an operation's revision."""
    preset = Preset.from_text(PRESET)
    assert Preset.from_text("# remark\n" + PRESET).digest == preset.digest
    assert Preset.from_text(PRESET.replace("hz = 80", "hz = 81")).digest != preset.digest


def test_a_raised_revision_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only presets that use the operation are affected."""
    from presets.operations.highpass import Highpass  # noqa: PLC0415 -- the one test that changes it

    before = {p.full_name: p.digest for p in LIBRARY.presets}
    monkeypatch.setattr(Highpass, "revision", 99)
    after = {p.full_name: Preset.from_text(p.text).digest for p in LIBRARY.presets}
    assert {name for name in before if before[name] != after[name]} == {
        *("dialogue_clean_v1", "podcast_episode_v1", "voice_over_music_v1")
    }
