"""Named programmes on which loudness is proved: real recordings where they are, and others made with FFmpeg."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

#: The folder of real recordings, which need not be there.
CORPUS = Path(os.environ.get("MEDIA_CORPUS") or _ROOT.parent / "shared" / "media")


@dataclass(frozen=True, slots=True)
class Programme:
    """``clips`` are the recordings it is made of; with no ``arguments`` for FFmpeg it is the one clip itself."""

    clips: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def _made(graph: str, *clips: str) -> Programme:
    return Programme(clips, ("-filter_complex", graph, "-c:a", "pcm_s24le"))


#: Twelve programmes, none under three seconds.
PROGRAMMES: Mapping[str, Programme] = {
    "speech": Programme(("speech-austen.ogg",)),
    "speech 5 s": _made("[0:a]atrim=1:6,asetpts=PTS-STARTPTS", "speech-2.ogg"),
    "talk in a video": Programme(("friday-cc0.mp4",)),
    "music": Programme(("music-sugar-plum.ogg",)),
    # Far too loud, and cut off at full scale by the recorder.
    "clipped music": _made("[0:a]atrim=20:50,asetpts=PTS-STARTPTS,volume=24dB,aformat=s16", "music-sugar-plum.ogg"),
    "speech in noise": _made(
        "[0:a]aresample=48000[v];anoisesrc=c=pink:r=48000:a=0.06:s=1:d=14[n];[v][n]amix=normalize=0:duration=shortest",
        "speech-austen.ogg",
    ),
    "pink noise": _made(
        "anoisesrc=c=pink:r=48000:a=0.2:s=2:d=20[l];anoisesrc=c=pink:r=48000:a=0.2:s=3:d=20[r];"
        "[l][r]join=inputs=2:channel_layout=stereo"
    ),
    # A stroke of 60 ms every two seconds, soft and loud in turn.
    "sparse percussion": _made(
        "anoisesrc=c=white:r=44100:a=1:s=4:d=30,"
        "volume='if(lt(mod(t,2),0.06),exp(-mod(t,2)*60)*(0.2+0.6*lt(mod(t,4),2)),0)':eval=frame,"
        "aformat=channel_layouts=stereo"
    ),
    "near silence": _made("anoisesrc=c=pink:r=48000:a=0.004:s=5:d=15,aformat=channel_layouts=stereo"),
    # From 20 Hz to 20 kHz, a decade in five seconds.
    "sine sweep": _made("aevalsrc='0.25*sin(2*PI*20*15/log(1000)*(exp(t*log(1000)/15)-1))':s=48000:d=15"),
    "surround": _made(
        "anoisesrc=c=pink:r=48000:a=0.1:s=6:d=16[a];anoisesrc=c=pink:r=48000:a=0.1:s=7:d=16[b];"
        "[0:a]aresample=48000,apad=whole_dur=16[c];sine=f=50:r=48000:d=16,volume=-6dB[d];"
        "anoisesrc=c=pink:r=48000:a=0.05:s=8:d=16[e];anoisesrc=c=pink:r=48000:a=0.05:s=9:d=16[f];"
        "[a][b][c][d][e][f]join=inputs=6:channel_layout=5.1",
        "speech-2.ogg",
    ),
    # A talk over a minute, quiet and loud in turn: what a compressor would tell by its loudness range.
    "wide range": _made(
        "[0:a]aloop=5:size=2e6,aresample=48000,volume='if(lt(mod(t,24),12),0.1,0.8)':eval=frame", "speech-2.ogg"
    ),
}


def available() -> Iterator[str]:
    """The names of the programmes that can be had here: without the corpus those that are made of nothing."""
    return (name for name, programme in PROGRAMMES.items() if all((CORPUS / clip).exists() for clip in programme.clips))


def programme(name: str, folder: Path) -> Path:
    """The file of a programme, made in ``folder`` unless it is there."""
    wanted = PROGRAMMES[name]
    clips = [CORPUS / clip for clip in wanted.clips]
    if not wanted.arguments:
        (clip,) = clips
        return clip
    path = folder / f"{name.replace(' ', '-')}.wav"
    if not path.exists():
        inputs = [argument for clip in clips for argument in ("-i", str(clip))]
        subprocess.run(
            ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-y", *inputs, *wanted.arguments, str(path)],
            check=True,
            timeout=60,
        )
    return path
