"""Python's collector of cyclic garbage, held back where everything that is made stays.

Importing TensorFlow and tracing a function make hundreds of thousands of objects, of which nearly none is garbage.
Looking through all of them again and again is a quarter of the import's time and a seventh of the tracing's.
"""

import contextlib
import gc
import sys
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
def importing(module: str) -> Iterator[None]:
    """`paused` while a module is first imported, and what is there then is not looked through later either.

    The latter is for good, so where the module has been imported already nothing is done.

    Args:
        module: its full name.
    """
    if module in sys.modules:
        yield
        return
    gc.collect()  # what is garbage now would stay otherwise
    with paused():
        yield
        gc.freeze()
