"""Where inputs come from and outputs go: what the agent needs of a store, and the stores by scheme of URI."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.storage.files import FileStore
from agent.storage.values import Identity, Staged
from presets.problems import MediaFailure
from presets.reasons import Reason

__all__ = ["FileStore", "Identity", "ObjectStore", "Staged", "Stores"]


class ObjectStore(Protocol):
    """A place that holds inputs and takes outputs.

    Publication has two steps, so that it can be finished by anyone after any crash: :meth:`stage` makes the content
    durable but invisible, :meth:`complete` makes it visible under its name and may be repeated. Every method raises
    :class:`MediaFailure`; what it says of paths and reasons is meant for the caller of the job.
    """

    async def fetch(self, uri: str, into: Path) -> Identity:
        """Makes the input readable at ``into``, replacing an earlier fetch; tells which version it is.

        :raises MediaFailure: INPUT_NOT_FOUND, INPUT_UNAVAILABLE, INPUT_EMPTY.
        """
        ...

    async def identify(self, uri: str) -> Identity:
        """Which version is there now: another one than fetched means INPUT_CHANGED, for the caller to say.

        :raises MediaFailure: as :meth:`fetch`.
        """
        ...

    async def check_target(self, uri: str, *, overwrite: bool) -> None:
        """Refuses early what could not be published; creates nothing and promises nothing.

        :raises MediaFailure: OUTPUT_EXISTS, OUTPUT_UNWRITABLE.
        """
        ...

    async def stage(self, source: Path, uri: str, attempt_id: str) -> Staged:
        """Brings ``source`` next to its target, durable and invisible. Repeating it replaces what it left before.

        ``source`` must not be written to afterwards.

        :raises MediaFailure: OUTPUT_UNWRITABLE, PUBLISH_FAILED (no space, an error of the device).
        """
        ...

    async def complete(self, final_uri: str, staged_uri: str, *, sha256: str, size: int, overwrite: bool) -> None:
        """Makes staged content visible as ``final_uri``, at once and whole. Idempotent, by any agent, after any crash.

        :raises MediaFailure: OUTPUT_EXISTS where something else has the name and ``overwrite`` is false;
            OUTPUT_UNWRITABLE; PUBLISH_FAILED where neither staging nor target holds the content.
        """
        ...

    async def discard(self, staged_uri: str) -> None:
        """Removes staged content. Idempotent. Folders that staging created stay.

        :raises MediaFailure: PUBLISH_FAILED.
        """
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of an agent; ``media_roots`` are the folders that ``file:`` URIs may reach."""

    media_roots: Sequence[Path]

    def store_for(self, uri: str) -> ObjectStore:
        """The store that serves ``uri``.

        :raises MediaFailure: INPUT_UNSUPPORTED_SCHEME.
        """
        if uri.partition(":")[0].lower() == "file":
            return FileStore(self.media_roots)
        raise MediaFailure(
            Reason.INPUT_UNSUPPORTED_SCHEME,
            f"{uri!r}: this agent reads and writes file: URIs only, such as file:///srv/media/talk.wav",
        )
