"""The command that draws: wrong input is one line, and the modes of a model are an image, too."""

import pytest
from commands import run_many
from helpers import make_glow
from PIL import Image

WRONG = {
    "--temp -1": "--temp is -1.0; it must be from 0 to 100, 0.7 is usual",
    "--temp nan": "--temp is nan",
    "--temp 1e9": "--temp is 1000000000.0",
    "--n 0": "flag --n=0",
    "--n 1000000000": "flag --n=1000000000",
    "--seed -5": "flag --seed=-5",
    "--weights missing.h5": "missing.h5",
    "--weights page.html": "page.html is an HTML page",
    "--weights .": "is a folder",
    "--weights weights.h5 --out missing/folder/../samples.png --n x": "flag --n=x",
    "weights.h5": "unexpected argument 'weights.h5'; a weights file is named by --weights",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    make_glow(image_shape=(8, 8, 1), dtype="float32").save_weights(folder / "weights.h5")
    (folder / "page.html").write_text("<!DOCTYPE html><html></html>" * 50)
    (folder / "blocked").mkdir()
    right = ["--weights weights.h5 --temp 0 --n 4 --out mode.png", "--weights weights.h5 --n 4 --out blocked"]
    lines = [*WRONG, *right]
    return folder, dict(zip(lines, run_many("sample", [line.split() for line in lines], folder), strict=True))


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line(answers, line):
    status, output, error = answers[1][line]
    assert (status, output) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert WRONG[line] in error


def test_temperature_zero_is_the_mode(answers):
    folder, answer = answers
    status, _, error = answer["--weights weights.h5 --temp 0 --n 4 --out mode.png"]
    assert status == 0, error
    assert Image.open(folder / "mode.png").size[0] > 100


def test_a_file_that_cannot_be_written_is_named(answers):
    status, _, error = answers[1]["--weights weights.h5 --n 4 --out blocked"]
    assert status == 2
    assert error.startswith("error: ")
    assert "blocked" in error
    assert "Is a directory" in error
