"""The standard streams of a command: safe when they are closed, full, or cannot encode a character."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from glow_tf import _progress
from glow_tf._files import printable


def secure() -> None:
    """Keeps a run alive when its output is closed or a terminal cannot encode a character."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # A standard stream was closed at the start: the next file to be opened would become the output.
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115  (open until the process ends)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _BrokenPipeSafeStream(stream, is_plain=name == "stdout"))  # progress bars are not plain


def status_of_output() -> int:
    """1 if the output could not be written, as to a full disk; a pipe that was closed, as by `head`, is no failure."""
    error = getattr(sys.stdout, "error", None)
    if error is None or error.errno == errno.EPIPE:
        return 0
    print(f"error: the output could not be written: {error.strerror}", file=sys.stderr)
    return 1


class _BrokenPipeSafeStream(_progress.QuietStream):
    """A text stream that is redirected to /dev/null after the first write error, which becomes its `error`."""

    def __init__(self, stream: TextIO, is_plain: bool) -> None:
        super().__init__(stream)
        self._is_plain = is_plain
        self.error: OSError | None = None

    def write(self, text: str) -> None:
        if self._is_plain:  # names of files and classes may hold terminal escapes
            text = "\n".join(printable(line, len(line)) for line in text.split("\n"))
        super().write(text)

    def _attempt(self, method: Callable, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            self.error = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return None
