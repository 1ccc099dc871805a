"""A log of bounded size: its beginning and its end, whatever was written. Standard library only: the supervisor's."""

from collections import deque
from typing import BinaryIO

#: Of a log that was cut: what is kept of its end, which says how it went.
END_BYTES = 256 * 1024


class CappedLog:
    """Writes to ``file`` what it is given, up to ``cap_bytes`` in all; of what comes after, the end is kept apart.

    :meth:`close` appends that end behind a line which says how much is missing. The file is written to at once and
    without a buffer, so that what was taken is not lost with the process; the end alone would be.
    """

    def __init__(self, file: BinaryIO, cap_bytes: int, *, end_bytes: int = END_BYTES) -> None:
        self._file = file
        self._room = max(0, cap_bytes - end_bytes)
        self._end_bytes = end_bytes
        self._end: deque[bytes] = deque()
        self._missing = 0
        self.held = 0
        """Bytes in memory: at most ``end_bytes`` and a piece."""

    def write(self, data: bytes) -> None:
        """Takes the next piece of the log.

        :raises OSError: no space.
        """
        if self._room:
            self._file.write(data[: self._room])
            data, self._room = data[self._room :], max(0, self._room - len(data))
        if not data:
            return
        self._end.append(data)
        self.held += len(data)
        while self.held - len(self._end[0]) >= self._end_bytes:
            gone = len(self._end.popleft())
            self.held -= gone
            self._missing += gone

    def close(self) -> None:
        """Writes the end. The file itself stays open.

        :raises OSError: no space.
        """
        end = b"".join(self._end)
        if self._missing or len(end) > self._end_bytes:
            # From a whole line on, where there is one.
            start = max(0, len(end) - self._end_bytes)
            start = end.find(b"\n", start) + 1 or start
            missing, end = self._missing + start, end[start:]
            self._file.write(b"\n[%d bytes of the log are left out here: it outgrew its cap]\n" % missing)
        self._file.write(end)
        self._end.clear()
        self.held = self._missing = 0
