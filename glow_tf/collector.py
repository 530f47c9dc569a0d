"""Python's collector of cyclic garbage, held back where everything that is made stays.

Importing TensorFlow and tracing a function make hundreds of thousands of objects, of which nearly none is garbage.
Looking through all of them again and again is a quarter of the import's time and a seventh of the tracing's.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """While it lasts nothing is collected; also a decorator, `paused()(function)`.

    >>> import gc
    >>> with paused():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """`paused`; and what was imported is not looked through later either, which is for good."""
    gc.collect()  # what is garbage now would stay otherwise
    with paused():
        yield
        gc.freeze()
