"""The architecture as imports: every arrow points to a lower floor, and no two modules import each other."""

import ast
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "glow_tf"

# The folders and the modules beside them, lowest floor first.
FLOORS = (
    ("errors", "_gc", "_hdf5_contents"),
    ("_files",),
    ("_option",),
    ("_progress", "config", "inputs", "bijectors"),
    ("nn", "dequantization", "_hdf5", "metadata"),
    ("weights",),
    ("pretrained", "_compiled", "flow", "latents", "summary"),
    ("classes", "distribution", "persistence"),
    ("initialization",),
    ("glow",),
    ("importers", "data", "integrations"),
    ("evaluation",),
    ("training",),
    ("demo",),
    ("cli",),
    ("__init__", "__main__", "explore", "inspect"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

# Layers for anybody's flow: they know nothing of this package but its errors.
ALLOWED_TO_BIJECTORS = {"errors", "bijectors"}


def modules():
    """{dotted name below the package: path}; a package's name stands for its __init__.py."""
    named = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        named[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return named


def imported(path, known):
    """The package's modules that a file imports anywhere, except for type checkers only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("glow_tf.") for alias in node.names if alias.name.startswith("glow_tf.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "glow_tf":
            base = node.module.removeprefix("glow_tf").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                found.add(full if full in known else base)
    return found - {""}


@pytest.fixture(scope="module")
def arrows():
    """{module: the modules that it imports}."""
    known = modules()
    return {name: imported(path, known) for name, path in known.items()}


def top(name):
    return name.split(".")[0]


def test_every_module_has_a_floor():
    assert {top(name) for name in modules()} <= set(FLOOR)


def test_imports_point_downwards(arrows):
    wrong = [
        f"{name} -> {other}"
        for name, others in arrows.items()
        for other in others
        if top(name) != top(other) and FLOOR[top(name)] <= FLOOR[top(other)]
    ]
    assert not wrong


def test_bijectors_stand_alone(arrows):
    reached = {top(other) for name, others in arrows.items() if top(name) == "bijectors" for other in others}
    assert reached <= ALLOWED_TO_BIJECTORS


def test_no_circle(arrows):
    graphlib.TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle


def test_the_package_itself_is_light():
    """Only what needs no TensorFlow is imported at the top of the modules that run before flags are checked."""
    heavy = {"tensorflow", "tensorflow_probability", "tf_keras", "matplotlib", "sklearn", "scipy"}
    for name in ("__init__", "__main__", "errors", "_gc", "_files", "config", "pretrained", "cli.app", "cli.train"):
        tree = ast.parse(modules()[name].read_text())
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & heavy, f"{name} imports {names}"
