"""`mediactl presets page`: what a preset is and does, as Markdown with a picture of a real run."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from ctl import manual, render, waiting
from ctl.connection import with_client
from ctl.levels import Levels, Unmeasurable, measure
from ctl.picture import Sound, draw
from ctl.run import carried_out
from ctl.settings import Format, Settings
from ctl.submission import Request, build, pairs
from ctl.tree import command
from mediactl.client import Client
from mediactl.v1 import job_pb2
from presets.catalog import Catalog
from presets.graph import loudness_of
from presets.intent import resolve
from presets.parse import InvalidDocument
from presets.uris import uri_to_path


@command("page")
@click.argument("preset", required=False)
@click.argument("inputs", nargs=-1, metavar="[INPUT...]")
@click.option("--profile", metavar="NAME", help="How the pictured result is packed; without it the preset's own.")
@click.option("-p", "params", multiple=True, metavar="KEY=VALUE", help="A parameter of the pictured run.")
@click.option(
    "--output",
    required=True,
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where pages and pictures go; older ones are replaced.",
)
def page(
    settings: Settings,
    *,
    preset: str | None,
    inputs: tuple[str, ...],
    profile: str | None,
    params: tuple[str, ...],
    output: Path,
) -> int:
    """Write a page about a preset: roles, parameters, steps, what is promised. Without PRESET, a page about each, and
    an index.

    With an INPUT, or ROLE=FILE for each role, the preset is run on it and the sound before and after is drawn:
    waveforms on one scale, momentary and short-term loudness, the target. The result itself is not kept. Without
    INPUT, pictures that are in the folder stay.

    \b
    Examples:
      mediactl presets page dialogue_clean talk.wav --output pages/
      mediactl presets page loudness_podcast show.mov -p target_lufs=-19 --profile mp3_192 --output pages/
      mediactl presets page --output pages/
    """
    if (profile or params) and not inputs:
        raise click.UsageError("--profile and -p are about the pictured run, which needs an INPUT")
    catalog = with_client(settings, lambda client: _catalog(client, preset, profile))
    output.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    if inputs:
        (known,) = catalog.presets
        request = Request(inputs, known.full_name, (profile,) if profile else (), params)
        drawing = output / manual.picture_name(known)
        code = _picture(request, catalog, drawing, settings)
        if code:
            return code
        written += [drawing] if drawing.exists() else []
    for known in catalog.presets:
        pictured = (output / manual.picture_name(known)).exists()
        default = catalog.profile(known.document.default_profile)
        written.append(_write(output / manual.page_name(known), manual.page(known, default, pictured=pictured)))
    if preset is None:
        written.append(_write(output / manual.INDEX, manual.index(catalog)))
    if settings.format is Format.TABLE:
        print(*written, sep="\n")
    else:
        render.write({"files": [str(path.absolute()) for path in written]}, settings)
    return 0


def _catalog(client: Client, preset: str | None, profile: str | None) -> Catalog:
    """What the controller knows of one preset and what it is packed as, or of all."""
    if preset is None:
        presets = [client.preset(known.full_name) for known in client.presets()]
        profiles = [client.profile(known.full_name) for known in client.profiles()]
    else:
        presets = [client.preset(preset)]
        named = {presets[0].default_profile, profile or presets[0].default_profile}
        profiles = [client.profile(name) for name in sorted(named)]
    try:
        return Catalog({}, {}).with_documents([one.document for one in presets], [one.document for one in profiles])
    except InvalidDocument as error:
        raise click.UsageError(f"the controller has a document that this mediactl can't read: {error}") from None


def _picture(request: Request, catalog: Catalog, drawing: Path, settings: Settings) -> int:
    """Runs the preset and draws what it does; returns the exit code. Where nothing has sound there is no drawing."""
    # Beside the drawing: the user lets this program write there, and so likely the agent.
    with tempfile.TemporaryDirectory(prefix=".mediactl-page-", dir=drawing.parent) as folder:
        specs = build(replace(request, output=f"{folder}/"))
        if len(specs) != 1:
            raise click.UsageError("one INPUT, or one ROLE=FILE for each role: a page shows one run")
        (job,) = carried_out(specs, settings)
        if job.state != job_pb2.JOB_STATE_COMPLETED:
            waiting.tell_failure(job, settings)
            return 1
        # As the controller resolved it: this tells roles and target.
        intent = resolve(
            catalog,
            inputs=[(one.role, one.uri) for one in specs[0].inputs],
            preset=request.preset or "",
            params=pairs(request.params, "-p"),
            outputs=[(one.profile, one.uri) for one in specs[0].outputs],
        )
        files = [(f"{one.role}: {Path(uri_to_path(one.uri)).name}", False, one.uri) for one in intent.inputs]
        files += [(f"result: {one.profile}", True, one.uri) for one in job.artifacts if one.streams]
        sounds = [Sound(name, made, levels) for name, made, uri in files if (levels := _levels(uri)) is not None]
    if not sounds:
        drawing.unlink(missing_ok=True)
        print(f"mediactl: {intent.preset.full_name}: nothing has sound, so there is no picture", file=sys.stderr)
        return 0
    loudness = loudness_of(intent)
    title = f"{intent.preset.full_name}: waveform and loudness, before and after"
    _write(drawing, draw(title, sounds, None if loudness is None else loudness.target_lufs))
    return 0


def _levels(uri: str) -> Levels | None:
    path = Path(uri_to_path(uri))
    try:
        return measure(path)
    except Unmeasurable as error:
        raise click.ClickException(f"no picture of {path}: {error}") from None


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
