"""What a result depends on, as one digest: who asks for the same once more may be given what is there."""

import hashlib
import json
from collections.abc import Sequence

from presets.capabilities import Binary
from presets.intent import Intent, text_digest

_VERSION = 1


def recipe(intent: Intent, contents: Sequence[str], binary: Binary) -> str:
    """SHA-256, hexadecimal, of all that outputs depend on, and of the folders that they are asked for in.

    Names of inputs and outputs are no part of it, nor is the machine.

    :param contents: SHA-256 of each input's content.
    """
    document = {
        "recipe": _VERSION,
        "inputs": [[ref.role, content] for ref, content in zip(intent.inputs, contents, strict=True)],
        "preset": text_digest(intent.preset.text),
        "parameters": dict(intent.parameters),
        "outputs": [
            [text_digest(output.profile.text), dict(output.profile.overrides), output.uri.rpartition("/")[0]]
            for output in intent.outputs
        ],
        "tags": intent.tags.to_json(),
        "ffmpeg": binary.version,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
