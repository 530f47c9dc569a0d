"""Displays the progress of a command's phases: a bar on a terminal, a line every ten seconds elsewhere.

    with _progress.phase("evaluating", total=10_000) as advance:
        for batch in batches:
            ...
            advance(len(batch))

Phases are silent until a command calls `show`. Output never raises: a closed pipe and a full disk are ignored.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO

# Seconds between two lines if the output is not a terminal, and between two refreshes if it is.
LINE_SECONDS = 10.0
REFRESH_SECONDS = 0.2

_state: dict[str, bool] = {"shown": False}
_bars: list["Bar"] = []


def show(is_shown: bool = True) -> None:
    """Switches the display of phases on or off."""
    _state["shown"] = is_shown


def is_shown() -> bool:
    """Whether phases are displayed."""
    return _state["shown"]


@contextlib.contextmanager
def phase(name: str, total: int | None = None, unit: str = "images") -> Iterator[Callable[..., None]]:
    """Displays the progress of a block, which calls the value of the `with` with the number of items that it has done.

    Args:
        name: what the block does, as a participle: "evaluating".
        total: the number of items, or None if it is unknown.
        unit: a plural noun for the items.
    """
    if not is_shown():
        yield lambda count=1, /: None
        return
    with contextlib.closing(Bar(name, total, unit)) as bar:
        yield bar.advance


@contextlib.contextmanager
def brief(name: str) -> Iterator[None]:
    """Displays the name of a block that takes seconds, on terminals only; for the name see `phase`."""
    with phase(name) if sys.stderr.isatty() else contextlib.nullcontext():
        yield


def line(text: str, stream: TextIO | None = None) -> None:
    """Writes a permanent line above the current bar, by default to the error stream."""
    from glow_tf._files import printable  # imports numpy

    for bar in _bars[-1:]:
        bar.clear()
    output = QuietStream(stream or sys.stderr)
    output.write(f"{printable(text, len(text))}\n")
    output.flush()
    for bar in _bars[-1:]:
        bar.refresh()


class Bar:
    """The display of one phase. A new bar hides the previous one, which reappears when the new one closes.

    Args:
        name, total, unit: see `phase`.
        stream: the output. Default: the error stream.
        layout: tqdm's `bar_format` on a terminal. Default: name, bar, count and time left.
        line_layout: the same for other outputs.
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        unit: str = "items",
        stream: TextIO | None = None,
        layout: str | None = None,
        line_layout: str | None = None,
    ) -> None:
        output = QuietStream(stream or sys.stderr)
        self._is_terminal = is_terminal = output.isatty()
        for bar in _bars[-1:]:
            bar.clear()
        self._tqdm = _tqdm_class()(
            desc=name,
            total=total,
            unit=unit,
            file=output if is_terminal else _LineStream(output),
            bar_format=(layout if is_terminal else line_layout) or _layout(total, is_terminal),
            mininterval=REFRESH_SECONDS if is_terminal else LINE_SECONDS,
            miniters=1,
            delay=0 if is_terminal else 1e-9,  # without a delay tqdm writes its first line at once
            dynamic_ncols=is_terminal and output.has_size(),
            position=0,
            leave=False,
        )
        if total is None and not is_terminal:
            self._tqdm.refresh()
        _bars.append(self)

    def advance(self, count: int = 1, /, text: str | None = None) -> None:
        """Counts items that are done; `text` replaces the name."""
        if text is not None:
            self._tqdm.set_description_str(text, refresh=False)
        self._tqdm.update(count)

    def clear(self) -> None:
        """Removes the bar from a terminal until the next refresh."""
        self._tqdm.clear()

    def refresh(self) -> None:
        """Redraws the bar on a terminal; other outputs get a line only at fixed intervals."""
        if self._is_terminal:
            self._tqdm.refresh()

    def close(self) -> None:
        """Removes the bar for good."""
        self._tqdm.close()
        if self in _bars:
            _bars.remove(self)
        for bar in _bars[-1:]:
            bar.refresh()


def _layout(total: int | None, is_terminal: bool) -> str:
    if total is None:
        return "{desc} ..."
    bar = " {percentage:3.0f}% {bar:20}" if is_terminal else ":"
    return "{desc}" + bar + " {n_fmt}/{total_fmt} {unit}, {remaining} left"


@functools.cache
def _tqdm_class() -> Any:
    from tqdm import tqdm  # takes a twentieth of a second, which would slow down `--help`

    class Tqdm(tqdm):
        """A tqdm without its monitor thread and its inter-process lock, which bars of a single thread do not need."""

        monitor_interval = 0

    Tqdm.set_lock(threading.RLock())
    return Tqdm


class QuietStream:
    """A text stream whose write errors are ignored: a closed pipe, a full disk, a character it cannot encode."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._attempt(self._stream.write, text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return bool(self._attempt(self._stream.isatty))

    def has_size(self) -> bool:
        """Whether this is a terminal of a known size; on one of 0 columns, as under `script`, tqdm draws nothing."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return os.get_terminal_size(self._stream.fileno()).columns > 0
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, method: Callable, *arguments: Any) -> Any:
        with contextlib.suppress(OSError, ValueError):
            return method(*arguments)
        return None


class _LineStream:
    """Turns tqdm's redraws, which use carriage returns, into lines."""

    def __init__(self, stream: QuietStream) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            self._stream.write(f"{text.strip()}\n")

    def flush(self) -> None:
        self._stream.flush()
