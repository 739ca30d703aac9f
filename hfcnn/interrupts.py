"""Ctrl-C and the signal to terminate: they wait wherever a step that must not be cut in two is under way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["Interrupts", "hold_interrupts"]


class Interrupts:
    """Signals that are held back but where they are let through.

    One that comes while they are held is delivered, as KeyboardInterrupt, where they are next let through.
    After the first that was delivered all others wait: there is something to be saved then, and a second
    Ctrl-C must not lose it.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._is_waiting = False
        self._was_delivered = False

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Let signals through."""
        with self._set(not self._was_delivered):
            self._deliver()
            yield

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back, in a part of what is allowed."""
        with self._set(False):
            yield
        self._deliver()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, as Python calls its handlers."""
        self._is_waiting = True
        self._deliver()

    def take_waiting(self) -> bool:
        """Whether a signal is still waiting; it is then no more."""
        waiting, self._is_waiting = self._is_waiting, False
        return waiting

    def settle(self) -> None:
        """Say that what an interrupt endangered is saved: the next one counts as the first."""
        self._was_delivered = False

    @contextlib.contextmanager
    def _set(self, is_open: bool) -> Iterator[None]:
        before, self._is_open = self._is_open, is_open
        try:
            yield
        finally:
            self._is_open = before and not self._was_delivered

    def _deliver(self) -> None:
        if self._is_open and self._is_waiting:
            self._is_open, self._is_waiting, self._was_delivered = False, False, True
            raise KeyboardInterrupt


@contextlib.contextmanager
def hold_interrupts(*signals: int) -> Iterator[Interrupts]:
    """Hold back what would raise KeyboardInterrupt, and the given signals too, in the main thread.

    A handler that the user has installed is left alone. Inside another such block its `Interrupts` is
    handed out again, held.

    Parameters
    ----------
    *signals : int
        Further signals that are to act like Ctrl-C, whatever their handlers are.

    Yields
    ------
    Interrupts

    Raises
    ------
    KeyboardInterrupt
        At the end, if a signal is still waiting.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Interrupts()  # Python raises KeyboardInterrupt in the main thread only
        return
    outer = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    if isinstance(outer, Interrupts):
        try:
            with outer.held():
                yield outer
        finally:
            outer.settle()
        return
    interrupts = Interrupts()
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, *signals):
            handler = signal.getsignal(number)
            if number in signals or handler is signal.default_int_handler:
                before[number] = handler
                signal.signal(number, interrupts.handle)
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupts.take_waiting():
        raise KeyboardInterrupt
