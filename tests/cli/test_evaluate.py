"""The command that scores: wrong input is one line."""

import csv
import os

import pytest
from commands import run_many
from helpers import make_glow
from PIL import Image

WRONG = {
    "--weights missing.h5": "missing.h5",
    "--weights weights.h5": "does not say what it was trained on; name the data with --dataset",
    "--weights weights.h5 --dataset ./missing": "the folder './missing' does not exist",
    "--weights weights.h5 --dataset digits --batch_size 0": "flag --batch_size=0",
    "--weights weights.h5 --dataset digits --draws 0": "flag --draws=0",
    "--weights weights.h5 --csv s.csv": "name their folder with --images",
    "--weights weights.h5 --images folder --csv new/s --html new/./s": "--csv and --html are both new/s",
    "--weights weights.h5 --images folder --csv empty": "error: empty: Is a directory",
    "--weights weights.h5 --images pipe": "'pipe' is not a folder",
    "--weights weights.h5 --images folder --dataset digits": "not both",
    "--weights weights.h5 --images ./missing": "the folder './missing' does not exist",
    "--weights weights.h5 --images empty": "found 0 images",
    "--weights weights.h5 --images folder --csv folder/sub.csv/x.csv": "sub.csv",
    "--weights letters.h5 --dataset digits": "the model has 2 classes (a, b, ...), digits has 10",
    "weights.h5": "unexpected argument 'weights.h5'; a weights file is named by --weights",
}


NAMES = ("a b.png", "-<b>.png", "ü.png")

DIGITS = "--weights weights.h5 --dataset digits"
CLASSES = "--weights classes.h5 --draws 2"
SCORED = "--weights classes.h5 --images folder --csv new/s.csv --html s.html"
SHOWN = "--weights weights.h5 --images folder"
SEEN = "--weights seen.h5 --images ./folder"
RIGHT = (DIGITS, CLASSES, SCORED, SHOWN, SEEN)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    make_glow(image_shape=(8, 8, 1), dtype="float32", num_bits=4).save_weights(folder / "weights.h5")
    size = {"image_shape": (8, 8, 1), "dtype": "float32", "num_bits": 4}
    summary = {"count": 500, "mean": 8.0, "quantiles": [7.0, 8.0, 20.0]}
    make_glow(**size, num_classes=10).save_weights(
        folder / "classes.h5", dataset="digits", class_names=[*"0123456789"], train_bits_per_dim=summary
    )
    make_glow(**size, num_classes=2).save_weights(folder / "letters.h5", class_names=["a", "b"])
    make_glow(**size).save_weights(folder / "seen.h5", dataset="folder")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "folder" / "sub.csv").write_text("")
    for index, name in enumerate(NAMES):
        Image.new("L", (10, 10), 80 * index).save(folder / "folder" / name)
    lines = [*WRONG, *RIGHT]
    answered = dict(zip(lines, run_many("evaluate", [line.split() for line in lines], folder), strict=True))
    return answered | {"folder": folder}


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
    assert "level  latents  bits/dim  share" in output
    assert "0 of 16384 bytes of 256 images do not come back" in output


def test_classes_and_draws(answers):
    status, output, error = answers[CLASSES]
    assert status == 0, error
    assert "importance-weighted over 2 draws" in output
    assert "the generative classifier is right in" in output and "(10 classes)" in output


def test_images_are_scored_one_by_one(answers):
    status, output, error = answers[SCORED]
    assert status == 0, error
    assert "3 images (classes.h5)" in output and "written: new/s.csv" in output and "no typicality" not in output
    with open(answers["folder"] / "new" / "s.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == sorted(NAMES)
    assert {*rows[0]} >= {"log_likelihood", "corrected_bits_per_dim", "typicality_p", "most_likely_class"}
    page = (answers["folder"] / "s.html").read_text()
    assert "-&lt;b&gt;.png" in page and "<b>" not in page


def test_without_files_the_scores_are_shown(answers):
    status, output, error = answers[SHOWN]
    assert status == 0, error
    assert "no typicality: this weights file does not hold" in output
    assert "'a b.png'" in output and "trained on" not in output


def test_images_that_were_trained_on_are_named_so(answers):
    status, output, error = answers[SEEN]
    assert status == 0, error
    assert "this model was trained on most of these images" in output
