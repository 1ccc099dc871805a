"""Where outputs are put: staged under the attempt's name, renamed to be published, every rename remembered."""

from __future__ import annotations

from dataclasses import dataclass, field

from presets.problems import MediaFailure
from presets.reasons import Reason


@dataclass(frozen=True, slots=True)
class Published:
    """One rename: content of an attempt became what a name shows."""

    at_us: int
    uri: str
    attempt_id: str
    by: str


@dataclass(slots=True)
class Place:
    """Survives whatever is killed. As the agent's stores, completing is idempotent and never replaces other content."""

    staged: set[tuple[str, str]] = field(default_factory=set)
    objects: dict[str, str] = field(default_factory=dict)
    history: list[Published] = field(default_factory=list)

    def stage(self, uri: str, attempt_id: str) -> str:
        self.staged.add((uri, attempt_id))
        return f"{uri}.{attempt_id}"

    def discard(self, uri: str, attempt_id: str) -> None:
        self.staged.discard((uri, attempt_id))

    def complete(self, uri: str, attempt_id: str, *, by: str, at_us: int) -> None:
        """Raises MediaFailure."""
        if (uri, attempt_id) not in self.staged:
            if self.objects.get(uri) != attempt_id:
                raise MediaFailure(Reason.PUBLISH_FAILED, f"{uri}: what was staged is gone and nothing was published")
            return
        if uri in self.objects:
            raise MediaFailure(Reason.OUTPUT_EXISTS, f"{uri} exists")
        self.staged.discard((uri, attempt_id))
        self.objects[uri] = attempt_id
        self.history.append(Published(at_us, uri, attempt_id, by))
