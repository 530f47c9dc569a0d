"""Calls functions in new processes that need not import TensorFlow, which takes five seconds.

They are forks of a server, a process of its own that has imported TensorFlow and never used it: TensorFlow starts its
threads with its first operation, and only a process of a single thread can be forked safely. `preloaded.py` is what the
server imports. Systems other than Linux start new processes instead.
"""

import multiprocessing
import os
import sys
import tempfile
import traceback
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

TESTS = Path(__file__).parent
TIMEOUT = 300  # seconds

_context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_context.set_forkserver_preload(["preloaded"])


def environment(**changes):
    """The environment of a command, without the settings of the tests; a change to None unsets a variable."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    changed = kept | {"PYTHONPATH": str(TESTS.parent)} | changes
    return {name: value for name, value in changed.items() if value is not None}


def call_all(*calls):
    """The results of functions that run at the same time, each in a process of its own.

    Args:
        calls: (function, arguments, environment); the function can be imported from tests/.
    """
    with mock.patch.dict(os.environ, environment(PYTHONPATH=f"{TESTS.parent}{os.pathsep}{TESTS}"), clear=True):
        if _context.get_start_method() == "forkserver":
            forkserver.ensure_running()
    running = [_start(*call) for call in calls]
    try:
        results = [_result(*each) for each in running]
    finally:
        for process, _ in running:
            process.kill()
            process.join()
    failures = [value for is_result, value in results if not is_result]
    if failures:
        raise RuntimeError("\n".join(failures))
    return [value for _, value in results]


def _start(function, arguments, environment):
    here, there = _context.Pipe(duplex=False)
    process = _context.Process(target=_call, args=(there, function, arguments, environment))
    process.start()
    there.close()
    return process, here


def _result(process, here):
    try:
        return here.recv() if here.poll(TIMEOUT) else (False, f"no answer after {TIMEOUT} s")
    except EOFError:
        process.join()
        return False, f"the process died with exit code {process.exitcode}"


def _call(there, function, arguments, environment):
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR counts again
    try:
        there.send((True, function(*arguments)))
    except BaseException:
        there.send((False, traceback.format_exc()))
