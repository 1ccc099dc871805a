"""The room on the scratch disk: what attempts have reserved of it, and what is left for others."""

from collections.abc import Callable
from pathlib import Path

from agent.core.reserve import default_reserve
from agent.core.sizes import in_words
from agent.storage.cache import InputCache
from agent.workspace import Workspace, folder_bytes, free_bytes, volume_bytes
from presets.problems import MediaFailure
from presets.reasons import Reason

#: What attempts have written so far is looked up no more often than this.
_FRESH_S = 1.0
#: What is made free for running attempts beyond what they have reserved, as long as something else can give way.
_AHEAD_BYTES = 256 * 2**20


class Scratch:
    """Reservations of attempts below ``root``. ``now`` is a monotonic clock in seconds.

    An attempt reserves what it will write at the most, before it writes anything. What it has written counts as used
    up, so that nothing counts twice: once in the disk's own figures and once more here. ``kept_bytes`` are never given
    away; None: what is reserved of such a volume by default. What a ``cache`` keeps on the volume gives way to
    attempts, so that it counts as free; what it is just fetching is what attempts have reserved.
    """

    def __init__(
        self,
        root: Path,
        now: Callable[[], float],
        *,
        kept_bytes: int | None = None,
        free: Callable[[Path], int] = free_bytes,
        cache: InputCache | None = None,
    ) -> None:
        self._root = root
        self._now = now
        self._kept_bytes = default_reserve(volume_bytes(root)) if kept_bytes is None else kept_bytes
        self._free = free
        self._cache = cache
        self._spare = 0
        self._reserved: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._looked_s = float("-inf")

    def reserve(self, attempt_id: str, inputs_bytes: int, written_bytes: int = 0) -> None:
        """Sets aside what an attempt fetches and writes in all, instead of what it had before.

        ``inputs_bytes`` is nothing for inputs that are only linked. Once for what is to be fetched, and once more when
        probing has shown what will be written.

        :raises MediaFailure: SCRATCH_FULL; what it had before stays reserved.
        """
        self._look()
        wanted = inputs_bytes + written_bytes
        written = folder_bytes(Workspace(self._root, attempt_id).path)
        own = max(0, self._reserved.get(attempt_id, 0) - written)
        others = self._outstanding() - own
        there, needed = self._there(), max(0, wanted - written)
        if needed > there - others:
            self._make_room(needed - (there - others))
            there = self._there()
        if needed > there - others:
            raise MediaFailure(Reason.SCRATCH_FULL, self._refusal(inputs_bytes, written_bytes, there, others))
        self._reserved[attempt_id] = wanted
        self._written[attempt_id] = written

    def release(self, attempt_id: str) -> None:
        """An attempt's workspace is gone; where it had reserved nothing, nothing is done."""
        self._reserved.pop(attempt_id, None)
        self._written.pop(attempt_id, None)

    def room(self, attempt_id: str) -> int:
        """Bytes an attempt may still write: what is left of its reservation, and what nobody has reserved."""
        self._look()
        # It may write faster than anybody looks whether the disk is low.
        self._make_room(_AHEAD_BYTES - (self._there() - self._outstanding()))
        return self._left(attempt_id) + self.free_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody has reserved, and that are not kept."""
        self._look()
        return max(0, self._there() + self._spare - self._outstanding())

    def _there(self) -> int:
        coming = self._cache.coming_bytes(self._root) if self._cache is not None else 0
        return self._free(self._root) + coming - self._kept_bytes

    def _make_room(self, wanted_bytes: int) -> None:
        if self._cache is not None and wanted_bytes > 0:
            self._cache.make_room(wanted_bytes, self._root)
            self._spare = self._cache.spare_bytes(self._root)

    def _refusal(self, inputs_bytes: int, written_bytes: int, there: int, others: int) -> str:
        parts = [f"{in_words(inputs_bytes)} for the inputs"] if inputs_bytes else []
        parts += [f"about {in_words(written_bytes)} for what it writes"] if written_bytes else []
        taken = f", of which {in_words(others)} are reserved for other tasks" if others else ""
        return (
            f"the task needs {' and '.join(parts)} on the agent's scratch disk, where {in_words(max(0, there))} can be "
            f"used{taken}; it was not begun there. Make room, or give the agent another --scratch-dir"
        )

    def _outstanding(self) -> int:
        return sum(map(self._left, self._reserved))

    def _left(self, attempt_id: str) -> int:
        return max(0, self._reserved.get(attempt_id, 0) - self._written.get(attempt_id, 0))

    def _look(self) -> None:
        now_s = self._now()
        if now_s - self._looked_s >= _FRESH_S:
            self._looked_s = now_s
            self._written = {one: folder_bytes(Workspace(self._root, one).path) for one in self._reserved}
            self._spare = self._cache.spare_bytes(self._root) if self._cache is not None else 0
