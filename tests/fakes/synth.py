"""Inputs made with FFmpeg: what `synth:NAME` means in a preset's checks, and files with known defects."""

import atexit
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp


@dataclass(frozen=True, slots=True)
class Recipe:
    """FFmpeg's arguments before the output path, and the path's extension."""

    arguments: tuple[str, ...]
    extension: str


def _lavfi(*graphs: str) -> tuple[str, ...]:
    return tuple(argument for graph in graphs for argument in ("-f", "lavfi", "-i", graph))


def _sides(right: str) -> tuple[str, ...]:
    """Five seconds of a tone on the left, and on the right this many times that."""
    return _lavfi(f"sine=f=997:r=48000:d=5,pan=stereo|c0=c0|c1={right}*c0")


#: Syllables of a harmonic voice with stressed ones well above the rest: gain alone overshoots at podcast loudness.
_VOICE = (
    "0.05*(sin(2*PI*140*t)+0.7*sin(2*PI*280*t)+0.5*sin(2*PI*560*t)+0.3*sin(2*PI*1400*t)+0.2*sin(2*PI*2800*t))"
    "*pow(max(0,sin(2*PI*1.3*t)),2)*(1+4*pow(max(0,sin(2*PI*0.21*t)),40))"
)
#: The same voice without stress, and with pauses of a second.
_READING = (
    "0.09*(sin(2*PI*140*t)+0.7*sin(2*PI*280*t)+0.5*sin(2*PI*560*t)+0.3*sin(2*PI*1400*t)+0.2*sin(2*PI*2800*t))"
    "*pow(max(0,sin(2*PI*1.3*t)),2)*lt(mod(t,3),2)"
)
_HUM = "sin(2*PI*100*t)+0.5*sin(2*PI*150*t)+0.4*sin(2*PI*200*t)+0.3*sin(2*PI*250*t)"
#: A hall's air conditioning: far louder than the voice below its range.
_RUMBLE = "0.3*sin(2*PI*22*t)"
_CHORD = "+".join(f"sin(2*PI*{hz}*t)" for hz in (110, 220, 277.18, 329.63, 440, 1318.5, 5274))
_MUSIC = f"0.16*({_CHORD})*(0.75+0.25*sin(2*PI*2*t))"

RECIPES: Mapping[str, Recipe] = {
    "speech": Recipe((*_lavfi(f"aevalsrc='{_VOICE}':s=16000:d=12"), "-c:a", "libvorbis"), "ogg"),
    "speech_with_rumble": Recipe((*_lavfi(f"aevalsrc='{_VOICE}+{_RUMBLE}':s=48000:d=12"), "-c:a", "pcm_s24le"), "wav"),
    # Four seconds of speech and three of pause, twice, and four of speech.
    "sentences": Recipe((*_lavfi(f"aevalsrc='{_VOICE}*lt(mod(t,7),4)':s=16000:d=18"), "-c:a", "libvorbis"), "ogg"),
    "tone_12k": Recipe((*_lavfi("sine=f=12000:r=48000:d=30"), "-c:a", "flac"), "flac"),
    **{
        f"speech_in_{colour}_noise": Recipe(
            (
                *_lavfi(
                    f"aevalsrc='{_READING}':s=48000:d=15[v];anoisesrc=c={colour}:a={level}:r=48000:d=15:seed=1[n];"
                    "[v][n]amix=normalize=0"
                ),
                *("-c:a", "pcm_s24le"),
            ),
            "wav",
        )
        for colour, level in (("pink", 0.027), ("white", 0.0092))
    },
    "speech_with_hum": Recipe(
        (*_lavfi(f"aevalsrc='{_READING}+0.0062*({_HUM})':s=48000:d=15"), "-c:a", "pcm_s24le"), "wav"
    ),
    "loud_music": Recipe(
        (*_lavfi(f"aevalsrc='{_MUSIC}|{_MUSIC}*0.9':s=44100:c=stereo:d=12"), "-c:a", "pcm_s16le"), "wav"
    ),
    "clicks": Recipe(
        (
            *_lavfi("aevalsrc='0.003*sin(2*PI*300*t)+if(lt(mod(t+0.5,1),0.0005),0.9,0)':s=48000:d=6"),
            "-c:a",
            "pcm_s24le",
        ),
        "wav",
    ),
    "silence": Recipe((*_lavfi("anullsrc=r=48000:cl=stereo:d=3"), "-c:a", "pcm_s16le"), "wav"),
    "blip": Recipe((*_lavfi("sine=f=997:r=48000:d=0.25"), "-c:a", "pcm_s16le"), "wav"),
    "tone": Recipe((*_lavfi("sine=f=997:r=48000:d=5"), "-c:a", "pcm_s24le"), "wav"),
    "surround": Recipe(
        (*_lavfi(f"aevalsrc='{'|'.join(['0.9*sin(2*PI*440*t)'] * 6)}':c=5.1:s=48000:d=4"), "-c:a", "ac3"), "ac3"
    ),
    # Names its surrounds after the sides, as AC-3 and DTS do: music around a voice in the centre.
    "surround_side": Recipe(
        (
            *_lavfi(
                f"aevalsrc='{_MUSIC}*0.5|{_MUSIC}*0.45|{_VOICE}*3|0.2*sin(2*PI*40*t)|{_MUSIC}*0.2|{_MUSIC}*0.25'"
                ":c=5.1(side):s=48000:d=12"
            ),
            *("-c:a", "pcm_s24le"),
        ),
        "wav",
    ),
    "lfe_only": Recipe(
        (*_lavfi("aevalsrc='0|0|0|0.5*sin(2*PI*40*t)|0|0':c=5.1:s=48000:d=4"), "-c:a", "pcm_s24le"), "wav"
    ),
    "seven_one": Recipe(
        (
            *_lavfi(
                "aevalsrc='"
                + "|".join(f"0.1*sin(2*PI*{hz}*t)" for hz in (300, 500, 700, 40, 1100, 1300, 1700, 1900))
                + "':c=7.1:s=48000:d=5"
            ),
            *("-c:a", "pcm_s24le"),
        ),
        "wav",
    ),
    # A channel, a tone: 300 and 500 Hz in front, 700 in the centre, 40 of low frequency, 1100 and 1300 at the sides.
    "surround_tones": Recipe(
        (
            *_lavfi(
                "aevalsrc='"
                + "|".join(f"0.1*sin(2*PI*{hz}*t)" for hz in (300, 500, 700, 40, 1100, 1300))
                + "':c=5.1(side):s=48000:d=5"
            ),
            *("-c:a", "pcm_s24le"),
        ),
        "wav",
    ),
    "dc_offset": Recipe((*_lavfi(f"aevalsrc='0.25+{_VOICE}':s=48000:d=12"), "-c:a", "pcm_s24le"), "wav"),
    "hard_clipped": Recipe(
        (*_lavfi(f"aevalsrc='max(-1,min(1,8*{_MUSIC}))|max(-1,min(1,7*{_MUSIC}))':s=44100:d=12"), "-c:a", "pcm_s16le"),
        "wav",
    ),
    "above_full_scale": Recipe(
        (*_lavfi(f"aevalsrc='20*{_MUSIC}|18*{_MUSIC}':s=48000:d=12"), "-c:a", "pcm_f32le"), "wav"
    ),
    "telephone": Recipe((*_lavfi(f"aevalsrc='{_VOICE}':s=8000:d=12"), "-c:a", "pcm_mulaw"), "wav"),
    # 997 Hz, and 30 kHz, which nobody hears and which becomes 18 kHz where a resampler does not remove it.
    "studio_192k": Recipe(
        (*_lavfi("aevalsrc='0.1*sin(2*PI*997*t)+0.1*sin(2*PI*30000*t)':s=192000:d=5"), "-c:a", "pcm_f64le"), "wav"
    ),
    # Silence for a second, then a tone: where it begins shows what was cut off or put before it.
    "onset": Recipe((*_lavfi("sine=f=997:r=48000:d=3,adelay=1000"), "-c:a", "pcm_s24le"), "wav"),
    "tone_stereo": Recipe((*_sides("1"), "-c:a", "pcm_s24le"), "wav"),
    "left_only": Recipe((*_sides("0"), "-c:a", "pcm_s24le"), "wav"),
    # One of two lines is wired the wrong way round.
    "antiphase": Recipe((*_sides("-1"), "-c:a", "pcm_s24le"), "wav"),
    "video_with_speech": Recipe(
        (
            *_lavfi("testsrc2=s=192x108:r=25:d=12", f"aevalsrc='{_VOICE}':s=48000:d=12"),
            *("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-movflags", "+faststart"),
        ),
        "mp4",
    ),
    "late_audio": Recipe(
        (
            *_lavfi("testsrc2=s=192x108:r=25:d=6"),
            *("-itsoffset", "2"),
            *_lavfi("sine=f=997:r=48000:d=4"),
            *("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"),
        ),
        "mp4",
    ),
    "two_tracks": Recipe(
        (
            *_lavfi("sine=f=997:r=48000:d=5,volume=10dB,aformat=channel_layouts=stereo"),
            *_lavfi("sine=f=997:r=48000:d=5,volume=-8.9dB"),
            *("-map", "0:a", "-map", "1:a", "-c:a", "flac"),
            *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu"),
        ),
        "mka",
    ),
    "commentary": Recipe(
        (
            *_lavfi("sine=f=440:r=48000:d=5,volume=1dB,aformat=channel_layouts=stereo"),
            *_lavfi("sine=f=997:r=48000:d=5,volume=-8.9dB"),
            *("-map", "0:a", "-map", "1:a", "-c:a", "flac", "-disposition:a:0", "default", "-disposition:a:1", "0"),
            *("-metadata:s:a:0", "title=Commentary by the director"),
        ),
        "mka",
    ),
    "video_only": Recipe((*_lavfi("testsrc2=s=192x108:r=25:d=1"), "-c:v", "libx264", "-preset", "ultrafast"), "mp4"),
    # A corner of each colour: red, green above blue, yellow.
    "quarters": Recipe(
        (
            *_lavfi(
                "color=red:s=160x90:r=25:d=1[a];color=lime:s=160x90:r=25:d=1[b];color=blue:s=160x90:r=25:d=1[c];"
                "color=yellow:s=160x90:r=25:d=1[d];[a][b]hstack[e];[c][d]hstack[f];[e][f]vstack"
            ),
            *("-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast"),
        ),
        "mp4",
    ),
    # The recorder dropped half of the frames, and then all for a second and a half.
    "varying_rate": Recipe(
        (
            *_lavfi("testsrc2=s=320x180:r=30:d=4"),
            *("-vf", "select='gt(random(0),.5)*not(between(t,2,3.5))'", "-fps_mode", "vfr"),
            *("-c:v", "libx264", "-preset", "ultrafast"),
        ),
        "mp4",
    ),
    "odd_size": Recipe(
        (*_lavfi("testsrc2=s=321x181:r=25:d=1"), "-pix_fmt", "yuv444p", "-c:v", "libx264", "-preset", "ultrafast"),
        "mp4",
    ),
    "interlaced": Recipe(
        (
            *_lavfi("testsrc2=s=720x576:r=50:d=1,scroll=h=0.01"),
            *("-vf", "interlace=scan=tff,setsar=16/15", "-c:v", "mpeg2video", "-q:v", "2"),
            *("-flags", "+ildct+ilme", "-top", "1"),
        ),
        "ts",
    ),
    "full_range": Recipe(
        (*_lavfi("color=white:s=320x180:r=25:d=1"), "-pix_fmt", "yuvj420p", "-c:v", "mjpeg", "-q:v", "2"), "mkv"
    ),
    "rgb": Recipe((*_lavfi("color=red:s=320x180:r=25:d=1"), "-pix_fmt", "bgr0", "-c:v", "ffv1"), "mkv"),
    "still_before_video": Recipe(
        (
            *_lavfi("color=red:s=64x64:d=0.04", "testsrc2=s=320x180:r=25:d=1"),
            *("-map", "0", "-map", "1", "-c:v:0", "mjpeg", "-pix_fmt:v:0", "yuvj420p", "-c:v:1", "libx264"),
            *("-disposition:v:0", "0", "-disposition:v:1", "0"),
        ),
        "mkv",
    ),
    # Written to a pipe, so that no header tells how long it is.
    "no_duration": Recipe(
        (*_lavfi("testsrc2=s=320x180:r=24:d=2", "sine=f=440:d=2"), "-c:v", "libvpx", "-c:a", "libvorbis", "-live", "1"),
        "webm",
    ),
    # Shown 256 pixels wide, as broadcasters store pictures.
    "anamorphic": Recipe(
        (*_lavfi("testsrc2=s=180x144:r=25:d=1,setsar=64/45"), "-c:v", "libx264", "-preset", "ultrafast"), "mp4"
    ),
    "cover_art": Recipe(
        (
            *_lavfi("sine=f=997:r=48000:d=3", "color=red:s=64x64:d=0.04"),
            *("-map", "0:a", "-map", "1:v", "-c:a", "aac", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
            *("-disposition:v:0", "attached_pic", "-metadata", "title=A title", "-metadata", "artist=Somebody"),
        ),
        "m4a",
    ),
}


def synthesise(name: str, folder: Path) -> Path:
    """The file that ``synth:name`` stands for, put into ``folder`` unless it is there."""
    made = _made(name.removeprefix("synth:"))
    path = folder / made.name
    if not path.exists():
        shutil.copyfile(made, path)
    return path


@cache
def _folder() -> Path:
    folder = mkdtemp(prefix="synth-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


@cache
def _made(name: str) -> Path:
    recipe = RECIPES[name]
    path = _folder() / f"{name}.{recipe.extension}"
    subprocess.run(
        ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-y", *recipe.arguments, str(path)],
        check=True,
        timeout=60,
    )
    return path


def cut(source: Path, share: float) -> Path:
    """The first ``share`` of a file's bytes, beside it."""
    whole = source.read_bytes()
    path = source.with_name(f"cut-{source.name}")
    path.write_bytes(whole[: int(len(whole) * share)])
    return path
