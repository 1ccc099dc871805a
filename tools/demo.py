"""`make demo [INPUT=path]`: one recording from end to end, through a real controller and a real agent.

Without a file of yours a spoken one is synthesised: too quiet, with hum and hiss, as recordings are.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path("out") / "demo"
TEXT = (
    "This is a recording made at a kitchen table. It is too quiet, there is a hum below it, and some hiss. "
    "Media control will bring it to the loudness of a podcast, and keep its peaks where they belong."
)
# Where FFmpeg was built without the speech synthesiser: a voice-like tone, so that there is something to master.
TONE = (
    "aevalsrc='0.3*(sin(2*PI*130*t)+0.5*sin(2*PI*260*t)+0.25*sin(2*PI*780*t))*(0.5+0.5*sin(2*PI*3*t))"
    "*gt(sin(2*PI*0.3*t),-0.7)':duration=12:sample_rate=48000"
)


def synthesise(path: Path) -> None:
    """Write a spoken recording with hum and hiss, about 15 dB quieter than it should be."""
    mix = (
        "[0:a]aresample=48000,volume=-14dB,highpass=f=40[v];"
        "anoisesrc=color=pink:amplitude=0.003:sample_rate=48000:seed=1[n];"
        "sine=frequency=50:sample_rate=48000,volume=-34dB[h];"
        "[v][n][h]amix=inputs=3:normalize=0:duration=first"
    )
    for source in (f"flite=text='{TEXT}':voice=slt", TONE):
        command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-filter_complex", mix, str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
    raise SystemExit("demo: FFmpeg could not synthesise a recording; try `make demo INPUT=your-file`")


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        source = Path(sys.argv[1])
    else:
        source = FOLDER / "recording.wav"
        synthesise(source)
        print(f"made a recording to work on: {source}", flush=True)
    shown = str(source) if "=" not in str(source) or source.is_absolute() else f"./{source}"
    job = ["run", "--preset", "dialogue_clean", "--output", f"{FOLDER}/", "--overwrite", "--", shown]
    print(f"mediactl run --preset dialogue_clean --output {FOLDER}/ --overwrite {shown}\n", flush=True)
    code = subprocess.run([sys.executable, "-P", "-m", "ctl.main", *job], check=False).returncode
    if code == 0:
        print(
            "\nListen to both. What else there is: .venv/bin/mediactl presets list; what happened: mediactl jobs list"
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
