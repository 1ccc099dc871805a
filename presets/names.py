"""What invocations of a plan and the files of a workspace are called: the same in every compilation of one job."""

from presets.intent import OutputRef


def encode_id(output: OutputRef, number: int) -> str:
    """Of an output's encode, counted from 1."""
    return f"encode.{output.name}.{number}"


def verify_id(output: OutputRef, number: int) -> str:
    """Of the verification of an encode: of its picture where it has one."""
    return f"verify.{output.name}.{number}"


def sound_id(output: OutputRef, number: int) -> str:
    """Of the verification of an encode's sound, which without a picture is all there is."""
    if output.profile.document.video is None:
        return verify_id(output, number)
    return f"verify.{output.name}.sound.{number}"


def path_of(output: OutputRef, number: int) -> str:
    """Where an encode is, in the workspace."""
    mark = f".{number}" if number > 1 else ""
    return f"out/{output.name}{mark}.{output.profile.document.extension}"
