"""What an output must be, from what went into it: the measure that :mod:`presets.verify` holds a file to."""

from collections.abc import Mapping

from presets import picture
from presets.beside import Beside
from presets.document import VideoSpec
from presets.facts import VideoStream
from presets.graph import Graph
from presets.intent import OutputRef
from presets.names import encode_id, path_of, sound_id, verify_id
from presets.plan import Expectation, ExpectedCover, ExpectedPicture, ExpectedStream, StepResult


def expectation(
    output: OutputRef,
    graph: Graph,
    results: Mapping[str, StepResult],
    number: int,
    encoded_s: float | None,
    beside: Beside,
) -> Expectation:
    """Of an output's encode with that number; ``encoded_s`` is how much sound went into it, ``beside`` what else."""
    document = output.profile.document
    signal = graph.programme(document)
    ids = [verify_id(output, number)] if document.video is not None else []
    ids += [sound_id(output, number)] if signal is not None else []
    ends = [results[id_].out_time_s for id_ in ids if id_ in results]
    # A file of which one stream gives nothing does not decode.
    decoded_s = max(end for end in ends if end is not None) if len(ends) == len(ids) and all(ends) else None
    sound: tuple[ExpectedStream, ...] = ()
    if signal is not None and document.audio is not None:
        sound = (ExpectedStream(document.audio.codec, signal.sample_rate_hz, signal.channels),)
    shown = None
    if document.video is not None:
        encoded, decoded = results.get(encode_id(output, number)), results.get(verify_id(output, number))
        shown = _picture(graph.picture.stream, document.video, encoded, decoded)
    return Expectation(
        name=output.name,
        path=path_of(output, number),
        uri=output.uri,
        container=document.container,
        streams=sound,
        # An encoder that reorders frames is behind in what it reports: they are counted instead.
        duration_s=encoded_s if shown is None else decoded_s,
        verified_by=verify_id(output, number),
        decoded_s=decoded_s,
        picture=shown,
        cover=None if beside.cover is None else _cover(beside.cover.stream),
        chapters_s=tuple(chapter.start_s for chapter in beside.chapters),
    )


def _cover(stream: VideoStream) -> ExpectedCover:
    return ExpectedCover(stream.codec, stream.width, stream.height)


def _picture(
    stream: VideoStream, spec: VideoSpec, encoded: StepResult | None, decoded: StepResult | None
) -> ExpectedPicture:
    width, height = picture.size(stream, spec.max_height)
    return ExpectedPicture(
        codec=spec.codec,
        width=width,
        height=height,
        pixel_format=spec.pixel_format,
        frames=encoded.frames if encoded else None,
        decoded_frames=decoded.frames if decoded else None,
    )
