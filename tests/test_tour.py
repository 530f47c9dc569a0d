"""The notebook's code cells, run in order in one process at small size."""

import json
from pathlib import Path

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tour.ipynb"


def test_cells_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOW_TF_TOUR_STEPS", "4")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), f"cell {cell['execution_count']}", "exec"), names)
    assert abs(names["by_hand"] - names["given"]) < 1e-9


def test_outputs_are_there():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells)
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) >= 4
    assert NOTEBOOK.stat().st_size < 500_000
