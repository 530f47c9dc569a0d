"""The command that scores: wrong input is one line."""

import pytest
from commands import run_many
from helpers import make_glow

WRONG = {
    "--weights missing.h5": "missing.h5",
    "--weights weights.h5": "does not say what it was trained on; name the data with --dataset",
    "--weights weights.h5 --dataset ./missing": "the folder './missing' does not exist",
    "--weights weights.h5 --dataset digits --batch_size 0": "flag --batch_size=0",
    "weights.h5": "unexpected argument 'weights.h5'; a weights file is named by --weights",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    make_glow(image_shape=(8, 8, 1), dtype="float32", num_bits=4).save_weights(folder / "weights.h5")
    lines = [*WRONG, "--weights weights.h5 --dataset digits"]
    return dict(zip(lines, run_many("evaluate", [line.split() for line in lines], folder), strict=True))


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line(answers, line):
    status, output, error = answers[line]
    assert (status, output) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert WRONG[line] in error


def test_the_digits_are_scored(answers):
    status, output, error = answers["--weights weights.h5 --dataset digits"]
    assert status == 0, error
    assert "bits/dim, standard error" in output
    assert "256 test images of digits (weights.h5)" in output
