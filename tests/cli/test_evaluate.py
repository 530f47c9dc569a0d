"""The command that scores: wrong input is one line."""

import csv
import os
import re
import types

import numpy as np
import pytest
import tensorflow as tf
from commands import run_many
from helpers import make_glow
from PIL import Image

from glow_tf.cli import reports
from glow_tf.config import GlowConfig
from glow_tf.data import image_data
from glow_tf.data.dataset import ArrayDataset
from glow_tf.dequantization import NoiseStream
from glow_tf.evaluation import metrics, ood
from glow_tf.glow import Glow
from glow_tf.training import diagnostics

WRONG = {
    "--weights missing.h5": "missing.h5",
    "--weights weights.h5": "do not say what they were trained on; name the data with --dataset",
    "--weights weights.h5 --dataset ./missing": "the folder './missing' does not exist",
    "--weights weights.h5 --dataset digits --batch_size 0": "--batch_size is 0; it must be an integer from 1 ",
    "--weights weights.h5 --dataset digits --draws 0": "--draws is 0; it must be an integer from 1 to 10000",
    "--weights weights.h5 --csv s.csv": "name the images with --images",
    "--weights weights.h5 --images folder --csv new/s --html new/./s": "--csv and --html are both new/s",
    "--weights weights.h5 --images folder --csv empty": "--csv is empty, which is a folder; name a file",
    "--weights weights.h5 --images folder --csv ./weights.h5": "--csv is ./weights.h5, which is also an input",
    "--weights run --images folder --html run/checkpoints/weights.h5": "weights.h5, which is also an input",
    "--weights weights.h5 --images pipe": "pipe",
    "--weights weights.h5 --images folder --dataset digits": "use one of them",
    "--weights weights.h5 --images folder --eval_images 9": "--eval_images is for a test split",
    "--weights weights.h5 --images folder --batch_size 9": "--batch_size is for a test split",
    "--weights weights.h5 --images ./missing": "./missing does not exist",
    "--weights weights.h5 --images test:0": "do not say what they were trained on; name the data with --dataset",
    "--weights weights.h5 --dataset digits --images test:0,256": "the test split has 256 images",
    "--weights weights.h5 --eval_images 0": "--eval_images is 0; it must be",
    "--weights seen.h5": "were trained on 'folder'; if that is a folder, add --dataset folder",
    "--weights root.h5": "were trained on '/'; if that is a folder, add --dataset /",
    "--weights mnist.h5 --data_dir empty --download": "mnist",
    "--weights weights.h5 --images empty": "found 0 images",
    "--weights weights.h5 --images folder --csv folder/sub.csv/x.csv": "sub.csv",
    "--weights letters.h5 --dataset digits": "the model has 2 classes (a, b, ...), digits has 10",
    "weights.h5": "unexpected argument 'weights.h5'; a weights file is named by --weights",
}


NAMES = ("a b.png", "-<b>.png", "ü.png")

DIGITS = "--weights weights.h5 --dataset digits"
CLASSES = "--weights classes.h5 --draws 2"
SCORED = "--weights classes.h5 --images folder --csv new/s.csv --html s.html --seed 7 --draws 2"
SHOWN = "--weights weights.h5 --images folder"
SEEN = "--weights seen.h5 --images ./folder"
ONE = "--weights weights.h5 --dataset digits --eval_images 1 --seed 7"
CONVERTED = "--weights colour.h5 --dataset digits --eval_images 8"
NAMED = "--weights run --dataset digits --images test:0,5 --images folder"
SPOTTED = "--weights strict.h5 --dataset ./spotted"
SPOTTED_IMAGES = "--weights strict.h5 --images spotted/test"
RIGHT = (DIGITS, CLASSES, SCORED, SHOWN, SEEN, ONE, NAMED, CONVERTED, SPOTTED, SPOTTED_IMAGES)
BROKEN = "--weights broken.h5 --dataset digits --eval_images 9"
BROKEN_IMAGES = "--weights broken.h5 --images folder"
LOSSY = "--weights lossy.h5 --dataset digits --eval_images 9"


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    two_levels = {"image_shape": (8, 8, 1), "dtype": "float32", "num_bits": 4}
    size = two_levels | {"num_levels": 1}
    make_glow(**two_levels).save_weights(folder / "weights.h5")
    summary = {"count": 500, "mean": 8.0, "quantiles": [7.0, 8.0, 20.0]}
    make_glow(**size, num_classes=10).save_weights(
        folder / "classes.h5", dataset="digits", class_names=[*"0123456789"], train_bits_per_dim=summary
    )
    make_glow(**size, num_classes=2).save_weights(folder / "letters.h5", class_names=["a", "b"])
    make_glow(**size).save_weights(folder / "seen.h5", dataset="folder")
    make_glow(**size).save_weights(folder / "root.h5", dataset="/")
    make_glow(**size).save_weights(folder / "mnist.h5", dataset="mnist")
    make_glow(image_shape=(16, 16, 3), dtype="float32", num_levels=1).save_weights(folder / "colour.h5")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    make_glow(**size).save_weights(folder / "run" / "checkpoints" / "weights.h5")
    broken = make_glow(**two_levels)
    broken.named_variables()["level1/actnorm/log_scale"].assign_add(tf.fill([2, 8], 1e3))
    broken.save_weights(folder / "broken.h5")
    lossy = make_glow(**size)
    lossy.named_variables()["level0/actnorm/log_scale"].assign(tf.fill([2, 4], -40.0))
    lossy.save_weights(folder / "lossy.h5")
    strict = make_glow(**two_levels)  # of black images
    strict.named_variables()["level0/actnorm/shift"].assign([[0.47] * 4, [0.0] * 4])
    strict.named_variables()["level0/actnorm/log_scale"].assign([[1.0] * 4, [0.0] * 4])
    strict.save_weights(folder / "strict.h5", dataset=".")
    for split, name, grey in (("train", "a/0", 0), ("train", "b/0", 0), *(("test", f"a/{i}", 0) for i in range(9)),
                              *(("test", f"b/{i}", 255 * (i == 2)) for i in range(3))):  # fmt: skip
        path = folder / "spotted" / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey).save(path)
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "folder" / "sub.csv").write_text("")
    for index, name in enumerate(NAMES):
        Image.new("L", (10, 12 + index), 80 * index).save(folder / "folder" / name)
    lines = [*WRONG, *RIGHT, BROKEN, BROKEN_IMAGES, LOSSY]
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
    status, output, error = answers[DIGITS]
    assert status == 0, error
    assert re.search(r"^\d+\.\d{4} ± 0\.\d{4} bits/dim on 256 test images of digits \(weights.h5\)$", output, re.M)
    assert "converted" not in output
    assert "an upper bound, 1 noise sample per image; the model sees 4 bits per channel\n" in output
    assert "level  latents  bits/dim  share" in output
    assert "changes 0 of 16,384 bytes of 256 images" in output


def test_classes_are_told_apart(answers):
    rows = re.findall(r"^ *(\d+) +(\d+\.\d{4})  ([0-9])$", answers[DIGITS][1], re.M)
    assert [row[2] for row in rows] == [*"0123456789"]
    counts, bits = (np.array([float(row[i]) for row in rows]) for i in (0, 1))
    mean = float(re.match(r"\d+\.\d{4}", answers[DIGITS][1])[0])
    assert counts.sum() == 256 and mean == pytest.approx(np.average(bits, weights=counts), abs=2e-4)


def test_classes_and_draws(answers):
    status, output, error = answers[CLASSES]
    assert status == 0, error
    assert "importance-weighted over 2 noise samples per image (levels: 1)" in output
    assert "images  bits/dim  accuracy  class" in output and "converted" not in output
    rows = np.array(re.findall(r"^ *(\d+) +\d+\.\d{4} +(\d+\.\d+)%  [0-9]$", output, re.M), float)
    accuracy = re.search(r"the generative classifier is right for (\d+\.\d+)% of 256 images", output)[1]
    assert float(accuracy) == pytest.approx(np.average(rows[:, 1], weights=rows[:, 0]), abs=0.01)


def test_one_image_has_no_standard_error(answers):
    status, output, error = answers[ONE]
    assert status == 0, error
    assert "bits/dim on 1 test image (no standard error) of digits" in output and "nan" not in output
    assert "a random subset of the 256 test images" in output


def test_levels_have_the_numbers_of_their_titles(answers):
    _, output, _ = answers[ONE]
    glow = Glow.load(answers["folder"] / "weights.h5")
    image, _ = image_data.load("digits").test.random_subset(1, seed=0)
    result = metrics.evaluate(glow, image_data.ArrayDataset(image), seed=7)
    assert float(output.split()[0]) == pytest.approx(result.bits_per_dim[0], abs=2e-4)
    z = glow.split_latents(glow.encode(glow.dequantize(image, 7, NoiseStream.LATENTS)))
    rows = re.findall(r"^ +([01])  +(\d+)  +(\S+)  +(\d+)%  +(\S+)  +(\S+)  +(\S+)  +(\S+)  +(\S+)$", output, re.M)
    for level, (row, bits) in enumerate(zip(rows, result.level_bits_per_dim[0], strict=True)):
        expected = [level, 32, bits, 100 * bits / result.bits_per_dim[0], *metrics.normality(z[level])]
        errors = np.abs(np.array(row, float) - expected)
        assert np.all(errors <= [0, 0, 2e-4, 1, *[2e-3] * 5]), (row, expected)


def test_images_unlike_the_models_are_said_to_be_converted(answers):
    status, output, error = answers[CONVERTED]
    assert status == 0, error
    assert "the images of digits are 8x8x1; they are converted to 16x16 RGB, the input of this model" in output


@pytest.mark.parametrize("line", [BROKEN, BROKEN_IMAGES])
def test_a_result_that_is_not_finite_is_an_error(answers, line):
    status, _, error = answers[line]
    assert status == 1
    assert re.search(
        r"^error: the bits/dim of (\d) of \1 images is not finite; .* level 1, step 0, actnorm$", error, re.M
    )


def test_the_image_that_is_not_finite_is_examined_with_the_noise_of_its_batch(conditional_glow, monkeypatch, capsys):
    split = ArrayDataset(np.arange(6 * 64, dtype=np.uint8).reshape(6, 4, 8, 2), np.arange(6) % 3)
    bits = np.array([1, 1, 1, 1, 1, np.inf])
    seen = []
    monkeypatch.setattr(diagnostics, "first_not_finite", lambda *arguments: seen.append(arguments))
    assert reports.explain_not_finite(conditional_glow, bits, split, seed=7, batch_size=4)
    _, values, labels = seen[0]
    np.testing.assert_array_equal(values, conditional_glow.dequantize(split.images[4:], 8)[1:])
    assert labels.tolist() == [2]
    assert capsys.readouterr().err == "error: the bits/dim of 1 of 6 images is not finite\n"


def test_a_round_trip_that_is_not_finite_is_an_error(answers):
    status, output, error = answers[LOSSY]
    assert status == 1
    assert re.match(r"\d+\.\d+ ± .* bits/dim on 9 test images", output)
    assert "error: decode(encode(image)) is not finite" in error


def test_images_are_scored_one_by_one(answers):
    status, output, error = answers[SCORED]
    assert status == 0, error
    assert "bits/dim on 3 images" in output and "written: new/s.csv" in output and "no typicality" not in output
    assert "under the mixture of the model's 10 classes" in output
    with open(answers["folder"] / "new" / "s.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == sorted(f"folder/{name}" for name in NAMES)
    assert {*rows[0]} >= {"log_likelihood", "corrected_bits_per_dim", "typicality_p", "most_likely_class"}
    classes = Glow.load(answers["folder"] / "classes.h5")
    images = np.uint8([80, 0, 160])[:, np.newaxis, np.newaxis, np.newaxis].repeat(8, axis=1).repeat(8, axis=2)
    expected = metrics.bits_per_dim_per_image(classes, images, None, seed=7, num_importance_samples=2)
    np.testing.assert_allclose([float(row["bits_per_dim"]) for row in rows], expected, rtol=1e-4)
    page = (answers["folder"] / "s.html").read_text()
    assert "-&lt;b&gt;.png" in page and "<b>" not in page


def test_without_files_the_scores_are_shown(answers):
    status, output, error = answers[SHOWN]
    assert status == 0, error
    assert "no typicality: this weights file does not contain" in output
    assert "folder/a b.png" in output and "trained on" not in output
    lines = output.splitlines()
    title = next(i for i, line in enumerate(lines) if line.endswith("corrected bits per dim  file"))
    scores = np.array([line.split()[:4] for line in lines[title + 1 : title + 4]], float)
    assert float(re.search(r"3 images, (\S+) against PNG", output)[1]) == pytest.approx(scores[:, 3].mean(), abs=2e-4)
    np.testing.assert_allclose(scores[:, 3], scores[:, 1] - scores[:, 2], atol=2e-4)
    assert "3 of 3 images are converted to 8x8 grey, the input of this model; the largest is 14x10 L" in output


def test_images_of_a_split_files_and_a_runs_folder(answers):
    status, output, error = answers[NAMED]
    assert status == 0, error
    assert "bits/dim on 5 images" in output and "(run/checkpoints/weights.h5)" in output
    assert "test:0" in output and "test:5" in output and "folder/ü.png" in output


def test_images_that_were_trained_on_are_named_so(answers):
    status, output, error = answers[SEEN]
    assert status == 0, error
    assert "this model was trained on most of these images" in output


def test_long_tables_end_with_a_count(capsys, monkeypatch):
    monkeypatch.setattr(reports, "MAX_ROWS", 2)
    reports.print_scores(ood.Scores(tuple("abcde"), {"bits_per_dim": np.arange(5.0)}))
    _, first, last, rest = capsys.readouterr().out.splitlines()
    assert (first.split(), last.split()) == (["0.0000", "a"], ["1.0000", "b"])
    assert rest == "... and 3 more; --csv FILE writes all"
    reports.print_classes(metrics.SplitResult(np.arange(5.0), np.ones((5, 1)), np.arange(5), None, 0, 0, 5), "abcde")
    assert capsys.readouterr().out.splitlines()[-2:] == ["     1    1.0000  b", "... and 3 more classes"]


def test_the_bound_names_its_noise(capsys):
    config = GlowConfig((8, 8, 1), num_levels=1, dequantization="variational")
    reports.print_bound(types.SimpleNamespace(config=config), draws=2)
    expected = "an upper bound, importance-weighted over 2 learned noise samples per image\n"
    assert capsys.readouterr().out == expected


def test_means_that_a_few_images_decide_are_marked(answers):
    """The last of nine and three images is white."""
    status, output, error = answers[SPOTTED]
    assert status == 0, error
    assert "the model was trained on .: training images may be among these test images\n" in output
    marked = [line for line in output.splitlines() if "decided by a few images" in line]
    assert re.search(r" \(decided by a few images\) bits/dim on 12 test images of ./spotted \(strict.h5\)$", marked[0])
    assert re.search(r"^     3 .*  b \(decided by a few images\)$", marked[1])
    assert re.search(r"^    0 .*  \(its bits/dim are decided by a few images\)$", marked[2])
    warning = r"warning: a few images decide the mean: the median is (.*) bits/dim, and {} has (.*)\n"
    median, most = map(float, re.search(warning.format("test:11"), error).groups())
    assert median < most / 100
    status, output, error = answers[SPOTTED_IMAGES]
    assert status == 0, error
    assert " (decided by a few images) bits/dim on 12 images, " in output
    assert "an upper bound, 1 noise sample per image; the model sees 4 bits per channel\n" in output
    assert re.search(warning.format("spotted/test/b/2.png"), error)
