"""What /proc says of a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.media.usage import Usage, read_usage

_BUSY = "import sys,time\nx = bytearray(100_000_000)\nwhile time.process_time() < 0.3: pass\n"
_COPY = "sys.stdout.buffer.write(open('/dev/zero', 'rb').read(30_000_000)); sys.stdout.flush(); sys.stdin.read(1)"


def test_a_process_is_read_while_it_runs() -> None:
    """Memory, time and bytes, as they are by then."""
    argv = [sys.executable, "-c", _BUSY + _COPY]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert len(process.stdout.read(30_000_000)) == 30_000_000
        used = read_usage(process.pid)
        process.stdin.write(b"x")
    assert used.peak_memory_bytes > 100_000_000
    assert 0.3 <= used.cpu_seconds < 20
    assert 30_000_000 <= used.bytes_written < 31_000_000
    assert 30_000_000 <= used.bytes_read < 33_000_000


def test_a_process_that_is_gone_used_nothing(tmp_path: Path) -> None:
    """What cannot be read is zero: figures never end an attempt."""
    assert read_usage(4711, proc=tmp_path) == Usage()


@pytest.mark.parametrize("name", ["(ffmpeg)", "(a) R 1 2 (b)"])
def test_a_name_may_hold_anything(tmp_path: Path, name: str) -> None:
    """Parentheses and numbers in a process's name do not shift the figures."""
    (tmp_path / "7").mkdir()
    times = "10 20 30 40"
    (tmp_path / "7" / "stat").write_text(f"7 {name} S 1 7 7 0 -1 4194304 1 2 3 4 {times} 20 0 1 0 100")
    assert read_usage(7, proc=tmp_path).cpu_seconds == pytest.approx(100 / os.sysconf("SC_CLK_TCK"))
