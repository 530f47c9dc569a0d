"""The benchmarks use internals of the package, which must exist under the names that they use."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_uses_names_that_exist(path):
    tree = ast.parse(path.read_text())
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "glow_tf":
            source = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(source, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
                value = getattr(source, name.name)
                if isinstance(value, ModuleType):
                    modules[name.asname or name.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"line {node.lineno}: {ast.unparse(node)}"
