"""How much of a log is sent while it grows: a token bucket, and words for what was left out. Pure."""

from __future__ import annotations

RATE_BYTES_PER_S = 256 * 1024
BURST_BYTES = 4 * 1024 * 1024


class LogThrottle:
    """Lets pieces of one attempt's log through at `rate` bytes a second, after a first `burst` at once.

    A piece is sent whole or not at all; the newest that was not sent is held, for the end of a log says how it went.
    Times are seconds of one monotonic clock.
    """

    def __init__(self, now_s: float, *, rate: int = RATE_BYTES_PER_S, burst: int = BURST_BYTES) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_s = now_s
        self._unsent = 0
        self._held = b""

    def take(self, piece: bytes, now_s: float) -> bytes:
        """What to send now that `piece` follows: it, behind a line about what was left out before; or nothing."""
        self._tokens = min(self._burst, self._tokens + self._rate * max(0.0, now_s - self._filled_s))
        self._filled_s = max(self._filled_s, now_s)
        if len(piece) > self._tokens and self._tokens < self._burst:
            self._unsent += len(self._held)
            self._held = piece
            return b""
        # A piece above the burst waits for a full bucket and leaves a debt.
        self._tokens -= len(piece)
        self._unsent += len(self._held)
        self._held = b""
        return self._note() + piece

    def end(self) -> bytes:
        """What to send when the log has ended: its last piece, if that was held."""
        last, self._held = self._held, b""
        return self._note() + last if last else b""

    def _note(self) -> bytes:
        if not self._unsent:
            return b""
        unsent, self._unsent = self._unsent, 0
        size = f"{unsent / 1048576:.1f} MiB" if unsent >= 1048576 else f"{unsent / 1024:.0f} KiB"
        return f"[{size} of the log not sent: it grew by more than {self._rate // 1024} KiB/s]\n".encode()
