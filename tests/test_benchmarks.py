"""The benchmarks use internals of the package, which must exist under the names that they use."""

import ast
import contextlib
import importlib
import io
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from forked import call_all, environment

from glow_tf.dequantization import Dequantizer

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").rglob("*.py"))


def missing_names(path):
    """The names of this package's modules that a script uses and that do not exist."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules, missing = {}, []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "glow_tf":
            source = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(source, name.name) and hasattr(source, "__path__"):
                    importlib.import_module(f"{node.module}.{name.name}")
                if not hasattr(source, name.name):
                    missing.append(f"line {node.lineno}: {node.module}.{name.name}")
                elif isinstance(getattr(source, name.name), ModuleType):
                    modules[name.asname or name.name] = getattr(source, name.name)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and not hasattr(module, node.attr):
                missing.append(f"line {node.lineno}: {ast.unparse(node)}")
    return missing


def test_programs_are_compared_by_the_same_bits_after_equal_steps(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS[0].parent)
    compare, learning = map(importlib.import_module, ("compare", "learning"))
    log_prob = np.array([-1e4, 0.0, 1e4])
    own = Dequantizer().bits_per_dim(log_prob, compare.NUM_DIMS)
    np.testing.assert_allclose(compare.bits_per_dim(log_prob), own, rtol=1e-6)
    pixels, noise = compare.random_bytes(2), np.random.default_rng(1)
    values = compare.dequantized(pixels, noise)
    np.testing.assert_array_equal(Dequantizer().quantize(values), pixels)
    factors = [learning.rate_factor(progress) for progress in (0.0, 0.02, 0.04, 0.5, 0.75, 1.0)]
    np.testing.assert_allclose(factors, [0, 0.5, 1, 1, 0.5, 0])


def auroc(own, foreign):
    sys.path.insert(0, str(BENCHMARKS[0].parent))
    return importlib.import_module("foreign").auroc(np.array(own), np.array(foreign))


def test_auroc_is_the_share_of_pairs_in_which_the_foreign_image_scores_higher():
    assert call_all((auroc, ([1, 2, 3], [2, 4]), environment())) == [4.5 / 6]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_uses_names_that_exist(path):
    # In a process of its own, since the modules of two commands define the same flags.
    assert call_all((missing_names, (path,), environment()))[0] == []


def help_of(path):
    """(what --help prints, the docstring)."""
    sys.argv, printed = [str(path), "--help"], io.StringIO()
    sys.path.insert(0, str(path.parent))
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue(), ast.get_docstring(ast.parse(path.read_text()))


def test_help_of_a_program_without_argparse_is_its_docstring():
    path = next(path for path in BENCHMARKS if path.stem == "precision")
    printed, doc = call_all((help_of, (path,), environment()))[0]
    assert doc in printed
