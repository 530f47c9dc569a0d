"""The benchmarks use internals of the package, which must exist under the names that they use."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest
from forked import call_all, environment

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


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_uses_names_that_exist(path):
    # In a process of its own, since the modules of two commands define the same flags.
    assert call_all((missing_names, (path,), environment()))[0] == []
