"""Stopping between steps: SIGINT, SIGTERM and SIGHUP are remembered, and a second Ctrl-C ends the process."""

import os
import signal
import sys
import threading


class Stopped(Exception):
    """A signal asked the run to stop."""


class GracefulShutdown:
    """Within a `with`, notes the first signal in `received`; a second SIGINT ends the process at once.

    Saving inside a handler could interrupt a save, so the run asks between its steps. Python calls its handlers
    between bytecodes only, and a step can take seconds; so a thread reads the number that Python's signal
    handler writes to a pipe at once. Signals that are ignored (nohup) stay ignored, and outside of the main
    thread signals are somebody else's.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self):
        self.received = None
        self._handlers = {}
        self._thread = None

    def check(self):
        """Raises Stopped if a signal was received."""
        if self.received is not None:
            raise Stopped

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in self.SIGNALS:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:
                self._handlers[number] = handler
                signal.signal(number, _leave_it_to_the_thread)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        if self._thread is None:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._write_end, b"\0")
        self._thread.join()
        os.close(self._read_end)
        os.close(self._write_end)

    def _listen(self):
        while number := os.read(self._read_end, 1)[0]:
            if number not in self._handlers:
                continue
            if self.received is None:
                self.received = number
                name = signal.Signals(number).name
                _tell(f"\n{name}: finishing this step, then saving; Ctrl-C once more ends at once\n")
            elif number == signal.SIGINT:
                os._exit(128 + number)


def _leave_it_to_the_thread(*_):
    pass


def _tell(text):
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, AttributeError):  # the terminal is gone, or there never was one
        pass
