"""What a job asks of an agent: FFmpeg's parts, and cores, memory and GPU; in alternatives where a GPU may serve."""

from collections.abc import Sequence

from presets import picture
from presets.capabilities import MEBIBYTE, Alternative, Binary, Requirements, Resources, encoder, media_filter, muxer
from presets.document import Hardware, VideoSpec
from presets.encoders import VIDEO_ENCODERS
from presets.formats import CONTAINERS
from presets.intent import Intent, OutputRef
from presets.operations import OPERATIONS
from presets.problems import MediaFailure
from presets.reasons import Reason

#: Filters that compilation uses whatever the steps are: opening an input, looking for samples that are no numbers, and
#: measuring what was encoded.
_ALWAYS = ("aformat", "ametadata", "apad", "aresample", "asetnsamples", "asetpts", "astats", "ebur128", "pan")

#: Filters that an analysis takes beside those.
_METERS = ("asplit", "silencedetect")

#: How long a job that prefers a GPU waits for one before the processor may do it, in seconds. Where no agent has
#: one, it does not wait.
PROCESSOR_OPENS_S = 30.0

#: Cores to encode a picture on, best first; every box has the last. More would leave x264's quality and gain little.
_ENCODING_CORES = (4, 2, 1)

#: Cores beside a GPU's encoder: decoding and scaling keep two busy.
_FEEDING_CORES = (2, 1)

#: Frames of 4:2:0 at the delivered size that decoding, scaling and the look-ahead of x264 or x265 hold at once: with
#: four threads 90 were measured at 1080p and 135 at 2160p. The rest is room for a source that is larger.
_FRAMES_HELD = 200

#: An estimate from FFmpeg's defaults, not a measurement: CUDA's context, and the surfaces of one encoder session.
_CONTEXT_BYTES = 256 * MEBIBYTE
_SURFACES = 32

#: What a picture is taken for where the profile has no bound: 4K.
_UNBOUNDED_HEIGHT = 2160


def requirements(intent: Intent) -> Requirements:
    """What an agent must have to do this: the steps' filters, an encoder for each stream, the muxers.

    With video: a GPU with a session for each picture, unless none may use it; then the processor, unless one must not.
    Each with fewer and fewer cores, so that a small box can do it too and a busy one need not become idle first.
    """
    specs = [spec for output in intent.outputs if (spec := output.profile.document.video) is not None]
    if not specs:
        return Requirements((Alternative(_needs(intent, hardware=False)),))
    alternatives: list[Alternative] = []
    if any(spec.hardware is not Hardware.NEVER for spec in specs):
        needs = _needs(intent, hardware=True)
        only_fed = all(spec.hardware is not Hardware.NEVER for spec in specs)
        for cores in _FEEDING_CORES if only_fed else _ENCODING_CORES:
            alternatives.append(Alternative(needs, _resources(specs, cores, hardware=True)))
    if all(spec.hardware is not Hardware.REQUIRE for spec in specs):
        needs = _needs(intent, hardware=False)
        opens_s = PROCESSOR_OPENS_S if alternatives else 0.0
        for cores in _ENCODING_CORES:
            alternatives.append(Alternative(needs, _resources(specs, cores, hardware=False), opens_s))
    return Requirements(tuple(alternatives))


def usable_encoders(spec: VideoSpec, *, hardware: bool) -> tuple[str, ...]:
    """The profile's encoders that a task may use to which a GPU was (``hardware``) or was not granted."""
    on_gpu = spec.hardware is Hardware.REQUIRE or (hardware and spec.hardware is Hardware.PREFER)
    return tuple(name for name in spec.encoders if VIDEO_ENCODERS[name].hardware is on_gpu)


def encoder_for(profile: str, encoders: Sequence[str], binary: Binary) -> str:
    """The first of the encoders that the binary has.

    :raises MediaFailure: UNSUPPORTED_COMBINATION where it has none.
    """
    for name in encoders:
        if encoder(name) in binary.capabilities:
            return name
    raise MediaFailure(
        Reason.UNSUPPORTED_COMBINATION,
        f"{profile} needs one of the encoders {', '.join(encoders)}, and FFmpeg {binary.version} has none of them",
    )


def video_encoder_for(
    output: OutputRef, spec: VideoSpec, binary: Binary, sides: tuple[int, int], *, hardware: bool
) -> str:
    """Of what was granted; but for a picture that the GPU does not take, the processor's where that may serve.

    :param sides: the picture's width and height.
    :raises MediaFailure: UNSUPPORTED_COMBINATION where none takes it.
    """

    def having(*, hardware: bool) -> str:
        return encoder_for(output.profile.full_name, usable_encoders(spec, hardware=hardware), binary)

    chosen = having(hardware=hardware)
    if VIDEO_ENCODERS[chosen].takes(*sides):
        return chosen
    if VIDEO_ENCODERS[chosen].hardware and spec.hardware is Hardware.PREFER:
        chosen = having(hardware=False)
        if VIDEO_ENCODERS[chosen].takes(*sides):
            return chosen
    least, most = VIDEO_ENCODERS[chosen].least, VIDEO_ENCODERS[chosen].most
    raise MediaFailure(
        Reason.UNSUPPORTED_COMBINATION,
        f"{output.name}: the picture is {sides[0]}x{sides[1]}, and {chosen} takes sides from {least} to {most}",
    )


def _needs(intent: Intent, *, hardware: bool) -> tuple[frozenset[str], ...]:
    steps = [step for chain in intent.preset.document.chain.values() for step in chain.steps]
    filters = {name for step in steps for name in OPERATIONS[str(step["op"])].filters}.union(_ALWAYS)
    needs: set[frozenset[str]] = set()
    for output in intent.outputs:
        document = output.profile.document
        if document.reports:
            filters.update(_METERS)
            continue
        needs.add(frozenset({muxer(CONTAINERS[document.container].muxer)}))
        if document.audio is not None:
            needs.add(frozenset(map(encoder, document.audio.encoders)))
        if document.video is not None:
            filters.update(picture.FILTERS)
            needs.add(frozenset(map(encoder, usable_encoders(document.video, hardware=hardware))))
    needs.update(frozenset({media_filter(name)}) for name in filters)
    return tuple(sorted(needs, key=sorted))


def _resources(specs: Sequence[VideoSpec], cores: int, *, hardware: bool) -> Resources:
    # Outputs are encoded one after the other, so the largest decides about memory.
    largest = max(map(_frame_bytes, specs))
    sessions = sum(spec.hardware is not Hardware.NEVER for spec in specs) if hardware else 0
    return Resources(
        cores=cores,
        memory_bytes=Resources().memory_bytes + _FRAMES_HELD * largest,
        encoder_sessions=sessions,
        gpu_memory_bytes=_CONTEXT_BYTES + sessions * _SURFACES * largest if sessions else 0,
    )


def _frame_bytes(spec: VideoSpec) -> int:
    """Of one frame of 4:2:0 at the largest size in 16:9."""
    height = spec.max_height or _UNBOUNDED_HEIGHT
    return height * (height * 16 // 9) * 3 // 2
