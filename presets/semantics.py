"""What a document must say beyond its shape: names that exist, chains that end, values that the steps accept.

Every function returns all it found as (path in the document, what was expected), in document order where possible.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, assert_never

from pydantic import ValidationError

from presets.document import (
    AudioSpec,
    Chain,
    Given,
    Hardware,
    Has,
    IntegerParameter,
    Media,
    NotGiven,
    NumberParameter,
    Parameter,
    ParameterIs,
    PresetDocument,
    ProfileDocument,
    Value,
    VideoSpec,
)
from presets.encoders import VIDEO_ENCODERS
from presets.formats import CODECS, CONTAINERS, LAYOUTS
from presets.operations import OPERATIONS, Extract, Loudness, Operation
from presets.parameters import allows, expected, extremes, references, substitute
from presets.positions import Path

Finding = tuple[Path, str]


def suggestion(name: str, known: Sequence[str]) -> str:
    """The tail of a message about an unknown ``name``: close matches, or all that is known where it is little."""
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; expected one of {', '.join(sorted(known))}" if known and len(known) <= 12 else ""


def reworded(message: str) -> str:
    """A message of the validation library in the words of the other messages."""
    return message.replace("Input should be", "expected").replace("Field required", "this field is needed and absent")


def preset_findings(document: PresetDocument) -> list[Finding]:
    """All that is wrong with a preset of the right shape."""
    return [
        *_parameters(document),
        *_roles(document),
        *_sources(document),
        *_conditions(document),
        *_steps(document),
        *_checks(document),
    ]


def profile_findings(document: ProfileDocument) -> list[Finding]:
    """All that is wrong with a profile of the right shape."""
    if document.reports:
        return [(("stream",), "a report has no streams")] if document.stream else []
    found: list[Finding] = []
    if not document.stream:
        found.append((("stream",), "at least one stream is needed: [[stream]]"))
    container = CONTAINERS[document.container]
    if document.delivery.chapters and not container.chapters:
        found.append((("delivery", "chapters"), f"a {document.container} file has no place for chapters"))
    kinds = [stream.kind for stream in document.stream]
    for index, stream in enumerate(document.stream):
        at: Path = ("stream", index)
        if stream.kind in kinds[:index]:
            found.append(((*at, "kind"), f"there is a stream of {stream.kind} already; one of each kind is possible"))
        if stream.codec not in container.codecs:
            takes = ", ".join(sorted(container.codecs))
            found.append(((*at, "codec"), f"a {document.container} file cannot hold {stream.codec}; it takes {takes}"))
        match stream:
            case AudioSpec():
                found += _audio_spec(at, stream)
            case VideoSpec():
                found += _video_spec(at, stream)
            case _:
                assert_never(stream)
    return found


def _audio_spec(at: Path, stream: AudioSpec) -> Iterator[Finding]:
    codec = CODECS[stream.codec]
    if codec.bitrates_kbps is None:
        if stream.bitrate_kbps is not None:
            yield (*at, "bitrate_kbps"), f"{stream.codec} is lossless: leave bitrate_kbps out"
    elif stream.vbr_quality is None:
        low, high = codec.bitrates_kbps
        if stream.bitrate_kbps is None or not low <= stream.bitrate_kbps <= high:
            yield (*at, "bitrate_kbps"), f"{stream.codec} takes from {low} to {high} kbit/s"
    elif stream.bitrate_kbps is not None:
        yield (*at, "bitrate_kbps"), "vbr_quality stands in its place: leave one of them out"
    if stream.vbr_quality is not None:
        low, high = codec.vbr_qualities or (0, -1)
        if not low <= stream.vbr_quality <= high:
            takes = "has none: say bitrate_kbps" if codec.vbr_qualities is None else f"takes from {low} to {high}"
            yield (*at, "vbr_quality"), f"{stream.codec} {takes}"
    if stream.bits is not None and stream.bits not in codec.depths:
        depths = ", ".join(map(str, sorted(codec.depths)))
        takes = f"takes {depths} bits" if depths else "has no bit depth: leave bits out"
        yield (*at, "bits"), f"{stream.codec} {takes}"
    for index, layout in enumerate(stream.layouts):
        if layout not in codec.layouts:
            takes = ", ".join(name for name in LAYOUTS if name in codec.layouts)
            yield (*at, "layouts", index), f"{stream.codec} does not carry {layout}; it takes {takes}"
    rates = codec.sample_rates_hz
    if rates is not None and stream.sample_rate_hz not in rates:
        listed = ", ".join(map(str, sorted(rates)))
        yield (*at, "sample_rate_hz"), f"{stream.codec} needs a sample rate of {listed}"


def _video_spec(at: Path, stream: VideoSpec) -> Iterator[Finding]:
    able = [name for name, encoder in VIDEO_ENCODERS.items() if encoder.codec == stream.codec]
    for index, name in enumerate(stream.encoders):
        if name not in able:
            told = f"{name} is not known as an encoder of {stream.codec}; expected one of {', '.join(sorted(able))}"
            yield (*at, "encoders", index), told
    on = {VIDEO_ENCODERS[name].hardware for name in stream.encoders if name in able}
    needed: dict[Hardware, dict[bool, str]] = {
        Hardware.PREFER: {True: "one on a GPU", False: "one on the processor"},
        Hardware.REQUIRE: {True: "one on a GPU"},
        Hardware.NEVER: {False: "one on the processor"},
    }
    lacking = [words for hardware, words in needed[stream.hardware].items() if hardware not in on]
    if lacking:
        yield (*at, "hardware"), f'"{stream.hardware}" needs among the encoders {" and ".join(lacking)}'


def terminal_chains(chains: Mapping[str, Chain], media: Media) -> tuple[str, ...]:
    """The chains of a kind that no other chain uses; a valid preset has at most one, and it is what is delivered."""
    used = {source for name, chain in chains.items() for source in chain.from_ if source != name}
    return tuple(name for name, chain in chains.items() if name not in used and chain.media is media)


def last_chain(document: PresetDocument, media: Media) -> str | None:
    """The chain of a valid preset that makes what is delivered of a kind; None where nothing of it is."""
    return next(iter(terminal_chains(document.chain, media)), None)


def _parameters(document: PresetDocument) -> Iterator[Finding]:
    for name, parameter in document.parameters.items():
        at: Path = ("parameters", name)
        if isinstance(parameter, NumberParameter | IntegerParameter) and parameter.min > parameter.max:
            yield (*at, "min"), f"min must not be above max, which is {parameter.max:g}"
        elif not allows(parameter, parameter.default):
            yield (*at, "default"), f"the default must be {expected(parameter)}"


def _roles(document: PresetDocument) -> Iterator[Finding]:
    defaults = [name for name, role in document.roles.items() if role.default]
    for name in defaults[1:]:
        yield ("roles", name, "default"), f"only one role may be the default; {defaults[0]} is it already"
    used = {source for chain in document.chain.values() for source in chain.from_}
    pictures = [name for name, role in document.roles.items() if role.media is Media.PICTURE]
    used.update(pictures)
    for name in pictures:
        if name != pictures[0]:
            yield ("roles", name), f"only one role may be a picture, the cover art; {pictures[0]} is it already"
        for key in ("default", "repeat"):
            if getattr(document.roles[name], key):
                yield ("roles", name, key), "a role for a picture cannot be that: it is one, beside what is processed"
    for name in document.roles:
        if name in document.chain:
            yield ("chain", name), "a role has the same name; names of roles and chains must differ"
        if name not in used:
            yield ("roles", name), "no chain uses this role; name it in a chain's from"


def _sources(document: PresetDocument) -> Iterator[Finding]:
    known = [*document.roles, *document.chain]
    sound = True
    for name, chain in document.chain.items():
        for index, source in enumerate(chain.from_):
            if source not in known:
                sound = False
                yield (
                    ("chain", name, "from", index),
                    f"{source!r} is neither a role nor a chain{suggestion(source, known)}",
                )
            elif source in chain.from_[:index]:
                yield ("chain", name, "from", index), f"{source!r} is named twice"
    cycle = _cycle({name: [*chain.from_, *_heard_by(document, chain)] for name, chain in document.chain.items()})
    if cycle:
        yield ("chain", cycle[0], "from"), f"chains must not form a circle: {' -> '.join(cycle)}"
    elif sound:
        for media in Media:
            first, *others = terminal_chains(document.chain, media) or ("",)
            for name in others:
                yield (
                    ("chain", name),
                    f"exactly one chain may be the last; nothing uses this one, and nothing uses {first}",
                )


def _heard_by(document: PresetDocument, chain: Chain) -> Iterator[str]:
    """Chains that the steps of a chain depend on without taking them in."""
    for step in chain.steps:
        operation = OPERATIONS.get(str(step.get("op")))
        if operation is not None:
            yield from _heard(operation, step, document.parameters)


def _heard(operation: type[Operation], step: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
    """The chains that a step names in its parameters; none where these are not valid, which is found elsewhere."""
    defaults = {name: declared.default for name, declared in parameters.items()}
    if any(name not in defaults for name in references(step)):
        return ()
    try:
        return operation.model_validate(substitute(dict(step), defaults)).hears()
    except ValidationError:
        return ()


def _cycle(sources: Mapping[str, Sequence[str]]) -> list[str]:
    finished: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in finished or name not in sources:
            return []
        for source in sources[name]:
            if circle := visit(source, [*trail, name]):
                return circle
        finished.add(name)
        return []

    return next((circle for name in sources if (circle := visit(name, []))), [])


def _conditions(document: PresetDocument) -> Iterator[Finding]:
    for name, chain in document.chain.items():
        at: Path = ("chain", name, "when")
        match chain.when:
            case None:
                pass
            case Given(given=role):
                yield from _known((*at, "given"), "role", role, document.roles)
            case NotGiven(not_given=role):
                yield from _known((*at, "not_given"), "role", role, document.roles)
            case Has(role=role):
                yield from _known((*at, "role"), "role", role, document.roles)
            case ParameterIs(parameter=parameter, is_=value):
                yield from _known((*at, "parameter"), "parameter", parameter, document.parameters)
                declared = document.parameters.get(parameter)
                if declared is not None and not allows(declared, value):
                    yield (*at, "is"), f"{parameter} is {expected(declared)}"
            case _:
                assert_never(chain.when)


def _known(at: Path, what: str, name: str, known: Mapping[str, object]) -> Iterator[Finding]:
    if name not in known:
        yield at, f"there is no {what} {name!r}{suggestion(name, list(known))}"


def _steps(document: PresetDocument) -> Iterator[Finding]:
    last = terminal_chains(document.chain, Media.AUDIO)
    for name, chain in document.chain.items():
        yield from _media(document, name, chain)
        if chain.media is Media.VIDEO:
            continue
        several = len(chain.from_) > 1 or any(
            source in document.roles and document.roles[source].repeat for source in chain.from_
        )
        if several and not chain.steps:
            yield (
                ("chain", name),
                'several sources need a first step for them: { op = "mix" } or { op = "join" }',
            )
        for index, step in enumerate(chain.steps):
            at: Path = ("chain", name, "steps", index)
            op = step.get("op")
            if not isinstance(op, str) or op not in OPERATIONS:
                said = f"there is no operation {op!r}" if "op" in step else "a step needs op, its operation"
                yield (*at, "op"), said + suggestion(str(op), list(OPERATIONS))
                continue
            operation = OPERATIONS[op]
            if index == 0 and several and not operation.joins:
                yield (*at, "op"), f"{op} takes one source, here are several: begin with mix or join"
            if index > 0 and operation.joins:
                yield (*at, "op"), f"{op} must be the first step of its chain"
            if operation is Extract and (index > 0 or any(s not in document.roles for s in chain.from_)):
                yield (*at, "op"), "extract must be the first step of a chain whose from names roles"
            for heard in _heard(operation, step, document.parameters):
                yield from _known(at, "chain", heard, document.chain)
            if operation is Loudness and ((name,) != last or index + 1 < len(chain.steps)):
                yield (*at, "op"), "loudness must be the last step of the last chain"
            yield from _values(at, operation, step, chain, document.parameters)


def _media(document: PresetDocument, name: str, chain: Chain) -> Iterator[Finding]:
    """What a chain takes must be of its kind; a role of video has sound too."""
    if chain.media is Media.PICTURE:
        yield ("chain", name, "media"), "a chain makes audio or video; a role for a picture is used as it is"
    for index, source in enumerate(chain.from_):
        at: Path = ("chain", name, "from", index)
        made = document.chain[source].media if source in document.chain else None
        if made is not None and made is not chain.media:
            yield at, f"{source} makes {made}, and this chain takes {chain.media}"
        if source in document.roles and document.roles[source].media is Media.PICTURE:
            yield at, f"the role {source} is a picture, which no chain takes: it is used as it is"
            continue
        if chain.media is Media.VIDEO and source in document.roles:
            role = document.roles[source]
            if role.media is not Media.VIDEO:
                yield at, f'the role {source} is of {role.media}; a picture comes from a role with media = "video"'
            elif role.repeat:
                yield at, f"the role {source} takes several inputs; a picture comes from a role that takes one"
    if chain.media is Media.VIDEO and len(chain.from_) > 1:
        yield ("chain", name, "from"), "a chain of video takes one source"
    if chain.media is Media.VIDEO and chain.steps:
        yield ("chain", name, "steps", 0), "there are no operations on pictures yet; the profile's size is made anyway"


def _values(
    at: Path,
    operation: type[Operation],
    step: Mapping[str, Any],
    chain: Chain,
    parameters: Mapping[str, Parameter],
) -> Iterator[Finding]:
    used = list(dict.fromkeys(references(step)))
    for key, value in step.items():
        for name in references(value):
            yield from _known((*at, key), "parameter", name, parameters)
    if any(name not in parameters for name in used):
        return
    defaults: dict[str, Value] = {name: parameters[name].default for name in used}
    found: dict[Finding, None] = dict.fromkeys(_refusals(at, operation, substitute(dict(step), defaults), chain))
    for name in used:
        for value in extremes(parameters[name]):
            for where, message in _refusals(at, operation, substitute(dict(step), {**defaults, name: value}), chain):
                if (where, message) not in found:
                    found[where, f"{name} may be {value!r}: {message}"] = None
    yield from found


def _refusals(at: Path, operation: type[Operation], step: Mapping[str, Any], chain: Chain) -> Iterator[Finding]:
    try:
        made = operation.model_validate(step)
    except ValidationError as error:
        for detail in error.errors():
            key = detail["loc"][0] if detail["loc"] else "op"
            if detail["type"] == "extra_forbidden":
                fields = [f for f in operation.model_fields if f != "op"]
                told = f"{operation.__name__.lower()} has no parameter {key!r}{suggestion(str(key), fields)}"
            else:
                told = reworded(detail["msg"])
            yield (*at, *detail["loc"]), told
        return
    for name in made.unknown_sources(chain.from_):
        yield at, f"{name!r} is not in this chain's from{suggestion(name, chain.from_)}"


def _checks(document: PresetDocument) -> Iterator[Finding]:
    for index, check in enumerate(document.check):
        at: Path = ("check", index)
        for role in check.inputs:
            yield from _known((*at, "inputs", role), "role", role, document.roles)
        for role, declared in document.roles.items():
            if not declared.optional and role not in check.inputs:
                yield (*at, "inputs"), f"the role {role} needs an input"
        for name, value in check.parameters.items():
            yield from _known((*at, "parameters", name), "parameter", name, document.parameters)
            parameter = document.parameters.get(name)
            if parameter is not None and not allows(parameter, value):
                yield (*at, "parameters", name), f"expected {expected(parameter)}"
        for measure, (low, high) in check.expect.items():
            if low > high:
                yield (*at, "expect", measure.value), "expected [lowest, highest]"
