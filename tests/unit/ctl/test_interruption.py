"""Ctrl-C and SIGTERM while work is done in another thread."""

import os
import signal
import threading

import pytest

from ctl.interruption import interruptible


def test_work_gives_its_result_and_its_error() -> None:
    """Without a signal it is as if the work had been called; signals mean afterwards what they meant before."""
    before = signal.getsignal(signal.SIGTERM)
    assert interruptible(lambda: 3, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0, lambda: None)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_brings_work_to_its_end(number: signal.Signals) -> None:
    """The interrupt function ends the work, then KeyboardInterrupt is raised in the main thread."""
    asked, ended = threading.Event(), threading.Event()

    def work() -> None:
        os.kill(os.getpid(), number)
        assert asked.wait(10)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        interruptible(work, asked.set)
    assert ended.is_set()


def test_a_second_signal_gives_up() -> None:
    """Work that does not end is left alone when the person insists."""
    never = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        never.wait(30)

    with pytest.raises(KeyboardInterrupt):
        interruptible(work, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert not never.is_set()
    never.set()
