"""Amounts of bytes, for people."""

GIB = 1 << 30
MIB = 1 << 20


def in_words(count: int) -> str:
    """`1.5 GiB` from a GiB on, else whole MiB."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
