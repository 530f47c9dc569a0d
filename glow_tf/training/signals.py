"""Stopping between steps: SIGINT, SIGTERM and SIGHUP are noted, and a second Ctrl-C ends the process."""

import os
import signal
import sys
import threading
from typing import Any, Self


class Stopped(Exception):
    """Raised where a run can stop after it received a signal."""


class GracefulShutdown:
    """A context that notes the first signal; a second SIGINT ends the process at once.

    A save inside a signal handler could interrupt another save, so the run checks between its steps. Python calls its
    handlers between bytecodes only, and a step can take seconds; so a thread reads the number that Python's C handler
    writes to a pipe at once. Signals that are ignored (nohup) stay ignored, and outside of the main thread no
    handlers are installed.

    Attributes:
        received: number of the first signal, or None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Raises Stopped if a signal was received."""
        if self.received is not None:
            raise Stopped

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in self.SIGNALS:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:
                self._handlers[number] = handler
                signal.signal(number, lambda *_: None)  # the thread acts on it
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._write_end, b"\0")
        self._thread.join()
        os.close(self._read_end)
        os.close(self._write_end)

    def _listen(self) -> None:
        while number := os.read(self._read_end, 1)[0]:
            if number not in self._handlers:
                continue
            if self.received is None:
                self.received = number
                name = signal.Signals(number).name
                interrupt = "a second Ctrl-C" if number == signal.SIGINT else "Ctrl-C"
                _tell(f"\n{name}: finishing this step, then saving; {interrupt} ends at once\n")
            elif number == signal.SIGINT:
                os._exit(128 + number)


def _tell(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, AttributeError):  # the terminal is gone, or there was none
        pass
