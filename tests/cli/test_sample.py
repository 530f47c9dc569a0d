"""The command that draws: wrong input is one line, and the modes of a model are an image, too."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from commands import answers_of, run_many
from forked import call_all, environment
from helpers import make_glow
from PIL import Image
from prepared import pictures, prepare

from glow_tf.cli import drawings
from glow_tf.data import image_data
from glow_tf.evaluation import editing, metrics, visualization

WRONG = {
    "--temp -1": "--temp is -1.0; it must be a number from 0 to 100, 0.7 is usual",
    "--temp nan": "--temp is nan",
    "--temp 1e9": "--temp is 1000000000.0",
    "--n 0": "--n is 0; it must be an integer from 1 to 10000",
    "--n x": "flag --n=x: it is not an integer",
    "--n 1000000000": "--n is 1000000000; it must be",
    "--seed -5": "--seed is -5; it must be an integer from 0 to 2147483647",
    "--weights missing.h5": "missing.h5",
    "--weights page.html": "page.html is an HTML page",
    "--weights .": "is a folder",
    "--weights weights.h5 --out missing/folder/../samples.png --n x": "flag --n=x",
    "--mode levels --gif --out moving.gif": "--out is moving.gif; it names the picture",
    "--gif": "--mode samples does not use --gif",
    "--out blocked.png": "--out is blocked.png, which is a folder; name a file",
    "--mode reconstruct --images own.png --out ./own.png": "--out is ./own.png, which is also an input; name another",
    "--mode reconstruct --images reconstruct.png": "--out is reconstruct.png, which is also an input",
    "--mode reconstruct --images folder --out folder/a.png": "--out is folder/a.png, which is also an input",
    "--mode levels --images a.gif --out a.png --gif": "the animation is a.gif, which is also an input",
    "--mode pca --images own-scatter.png --out own.png": "the scatter plot is own-scatter.png, which is also an input",
    "--weights weights.h5 --mode attribute --positive folder --negative folder --out folder/a.png": "also an input",
    "--weights weights.h5 --mode attribute --csv t.csv --attribute smile --out own.png": "own.png, which is also an",
    "--weights weights.h5 --mode attribute --csv t.csv --attribute smile --save_direction t.csv": "t.csv, which is",
    "--weights weights.h5 --mode attribute --positive folder --negative folder --save_direction ./weights.h5": (
        "--save_direction is ./weights.h5, which is also an input"
    ),
    "--weights digits --mode pca --data_dir empty": "--data_dir has no effect, since digits is not a data set of TFDS",
    "--out page.html/new/s.png": "page.html is not a writable folder",
    "--weights weights.h5 --label 1": "this model has no classes; train one with --conditional",
    "--weights animals.h5 --label dgo": "--label is 'dgo'; did you mean dog? The classes are dog, cat, or an index",
    "--weights animals.h5 --label 99": "--label is '99'; the classes are dog, cat, or an index from 0 to 1",
    "--weights weights.h5 --mode interpolate --images page.html": "an interpolation needs pairs of images",
    "--weights weights.h5 --mode interpolate --images test:1": "an interpolation needs pairs of images; name two of",
    "--weights weights.h5 --mode pca": "name the data with --dataset",
    "--weights animals.h5 --mode reconstruct": "were trained on './animals'; if that is a folder, add --dataset ./anim",
    "--weights digits --mode attribute --positive class:1 --negative class:horse": "--negative is 'horse'; the classes",
    "--weights cifar10 --mode pca --data_dir empty": "downloading it needs --dataset cifar10 --download",
    "--mode reconstruct --images page.html --dataset cifar10": "--dataset has no effect: --images names only files",
    "--mode levels --images page.html --data_dir empty": "--data_dir has no effect: --images names only files",
    "--temperature 0.7": "--temperature is not a flag of this command; did you mean --temp?",
    "--mode interpolate --images a.png,b.png": "a.png,b.png does not exist; repeat --images for each image",
    "--mode reconstruct --images empty": "found 0 images in 'empty'",
    "--mode reconstruct --images page.html b.png": "unexpected argument 'b.png'; repeat --images for each image",
    "weights.h5": "unexpected argument 'weights.h5'; a weights file is named by --weights",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    make_glow(image_shape=(8, 8, 1), dtype="float32").save_weights(folder / "weights.h5")
    names = {"dataset": "./animals", "class_names": ["dog", "cat"]}
    make_glow(image_shape=(8, 8, 1), dtype="float32", num_classes=2).save_weights(folder / "animals.h5", **names)
    (folder / "empty").mkdir()
    (folder / "page.html").write_text("<!DOCTYPE html><html></html>" * 50)
    (folder / "blocked.png").mkdir()
    (folder / "t.csv").write_text("image,smile\nown.png,1\na.gif,0\n")
    (folder / "folder").mkdir()
    for name in ("own.png", "own-scatter.png", "reconstruct.png", "a.gif", "folder/a.png"):
        (folder / name).write_bytes(b"a photograph")
    lines = [line.split() for line in WRONG]
    return dict(zip(WRONG, run_many("sample", lines, folder, "no tensorflow"), strict=True))


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line(answers, line):
    status, output, error = answers[line]
    assert (status, output) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert WRONG[line] in error


# The modes, with a model of ten classes that knows its data set, and one without classes: the output, a file.
MODES = {
    "--seed 1 --out s.png": ("8 samples of each of 10 classes at temperature 0.7", "s.png"),
    "--label 7 --n 5 --seed 1 --out label.webp": ("5 samples of class 7 at temperature 0.7", "label.webp"),
    "--temp 0 --n 4 --out no/folder/mode.png": ("1 sample of each of 10 classes at temp", "no/folder/mode.png"),
    "--mode temperature --seed 1 --n 3 --gif --out t.png": ("3 samples at rising temperatures", "t.gif"),
    "--mode reconstruct --images test:0,5,17 --out r.png": ("3 images and their reconstructions", "r.png"),
    "--mode reconstruct --images more --images test:1 --out more.jpg": ("3 images and", "more.jpg"),
    "--mode reconstruct --images more --n 1 --out one.png": ("1 image and its reconstruction", "one.png"),
    "--mode interpolate --images a.png --images test:3 --columns 4 --spherical --out i.png": (
        "Interpolation between two",
        "i.png",
    ),
    "--mode attribute --positive class:1 --negative class:8 --columns 3 --n 2 --save_direction new/d.npy --out p.png": (
        "2 images changed towards class 8 (left) and class 1 (right)",
        "new/d.npy",
    ),
    "--mode attribute --direction new/d.npy --images a.png --gif --columns 3 --strength -2 --out q.png": (
        "more d (left) and less d (right)",
        "q.gif",
    ),
    "--mode attribute --csv table.csv --attribute dark --images a.png --columns 4 --out c.png": (
        "1 image changed towards less dark",
        "c.png",
    ),
    "--mode attribute --dataset faces --data_dir . --attribute Smiling --images a.png --columns 3 --out f.png": (
        "the direction: 4 images with the attribute, 8 without",
        "f.png",
    ),
    "--weights levels.h5 --mode levels --n 1 --columns 3 --temp 0.3 --seed 2 --out l.png": (
        "The role of each level: its",
        "l.png",
    ),
    "--mode pca --components 2 --columns 3 --out pca.png": ("2 principal components", "pca-scatter.png"),
    "--weights plain.h5 --mode pca --images more --out two.png": ("1 principal component of", "two.png"),
}
# Bundled weights are those whose data set is there only if a data set is read; the runs of this folder are none.
DEFAULT_WEIGHTS = {
    "--mode interpolate --images a.png --images b.png --columns 3 --out own.png": "bundled fashion_mnist",
    "--mode attribute --positive more --negative more --images a.png --columns 3 --out folders.png": "bundled fash",
    "--mode reconstruct --n 1 --out tests.png": "bundled digits",
}
# What works with a warning.
WARNED_MODES = {
    "--temp 3 --n 10 --out hot.png": "--temp 3 is high: at 1 samples follow the model's own",
    "--mode interpolate --images test:3 --images test:4 --steps 3 --out steps.png": "--steps is deprecated; use",
    "--mode interpolate --images test:1,2,3 --columns 3 --out odd.png": "the number of images, 3, is odd; test:3 is",
    "--mode interpolate --dataset faces --data_dir . --columns 3 --out few.png": "the test split has 1 image; training",
    "--mode pca --dataset faces --data_dir . --columns 3 --out small.png": "the test split has 1 image; training",
    "--mode pca --n 3 --columns 3 --out three.png": "3 images have 2 principal components, not --components 4",
}
OVERFLOWING = "--weights overflowing.h5 --n 4 --seed 0 --out overflowing.png"
WRONG_MODES = {
    "--mode fly": "--mode is 'fly'; it can be samples, temperature, reconstruct",
    "--label horse": "--label is 'horse'; the classes are 0, 1, 2",
    "--label 10": "an index from 0 to 9",
    "--strength 2 --weights missing.h5": "--mode samples does not use --strength; modes that use it: attribute, pca",
    "--mode reconstruct --steps 3": "does not use --steps; modes that use it: interpolate, attribute, levels, pca",
    "--mode reconstruct --images missing.png": "missing.png does not exist",
    "--mode reconstruct --images pipe": "pipe is",
    "--mode reconstruct --out r.tif": "'r.tif' must end in .png, .jpg, .jpeg or .webp",
    "--mode attribute --csv pipe --attribute dark": "pipe is",
    "--mode attribute --csv table.csv --attribute none": "none.png does not exist",
    "--mode attribute --direction pipe": "pipe is",
    "--mode reconstruct --images test:999999": "from 0 to 255",
    "--mode reconstruct --images table.csv": "table.csv cannot be read",
    "--mode reconstruct --images test:1,x": "named as in test:0,5,17",
    "--mode interpolate --columns 1": "--columns is 1; it must be an integer from 2 to 1000",
    "--mode attribute": "an attribute needs examples",
    "--mode attribute --positive class:1": "--positive and --negative must be used together",
    "--mode attribute --positive class:1 --negative class:horse": "--negative is 'horse'; the classes are 0",
    "--mode attribute --positive ./none --negative ./none": "the folder './none' does not exist",
    "--mode attribute --csv table.csv": "--attribute NAME",
    "--mode attribute --csv table.csv --attribute light": "table.csv has no column 'light'; it has dark, none",
    "--mode attribute --csv missing.csv --attribute x": "missing.csv does not exist",
    "--mode attribute --attribute dark": "'digits' has no attributes: it is not a data set of tensorflow_datasets",
    "--mode attribute --dataset faces --data_dir . --attribute Hat": "it has attributes/Smiling",
    "--mode attribute --dataset celeb_a --data_dir . --attribute Smiling": "tfds build celeb_a",
    "--mode attribute --attribute dark --positive x": "--positive and --attribute each define the attribute",
    "--mode attribute --direction table.csv": "table.csv is not a",
    "--mode attribute --direction new/d.npy --strength nan": "--strength is nan",
    "--mode attribute --direction new/d.npy --save_direction e.npy": "not for one read by --direction",
    "--mode attribute --csv missing.csv --attribute x --direction missing.npy": "--direction and --attribute each",
    "--weights plain.h5 --mode pca --images a.png": "principal components need at least 2 images, not 1",
}


SIZE = {"image_shape": (8, 8, 1), "dtype": "float32", "num_bits": 4, "num_levels": 1}


@pytest.fixture(scope="module")
def classes():
    return make_glow(**SIZE, num_classes=10)


@pytest.fixture(scope="module")
def levels():
    return make_glow(**SIZE | {"num_levels": 2})


@pytest.fixture(scope="module")
def modes(classes, levels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    known = {"dataset": "digits", "class_names": [str(digit) for digit in range(10)]}
    classes.save_weights(folder / "classes.h5", **known, step=1000, previous_steps=90)
    levels.save_weights(folder / "levels.h5", **known)
    make_glow(**SIZE).save_weights(folder / "plain.h5")
    overflowing = make_glow(**SIZE)
    overflowing.named_variables()["level0/actnorm/log_scale"].assign(tf.fill([2, 4], -40.0))
    overflowing.save_weights(folder / "overflowing.h5")
    for name, grey in (("a.png", 60), ("b.png", 200)):
        Image.new("L", (12, 12), grey).save(folder / name)
    (folder / "table.csv").write_text("image,dark,none\na.png,1,1\nb.png,-1,0\nnone.png,?,0\n")
    os.mkfifo(folder / "pipe")
    (folder / "more").mkdir()
    for number in range(2):
        Image.new("RGB", (9, 9), (90, 50 * number, 0)).save(folder / "more" / f"{number}.png")
    smiles = {"attributes": {"Smiling": (np.bool_, [number % 3 == 0 for number in range(12)])}}
    splits = {"train": pictures(12, (9, 8, 3)), "test": pictures(1, (9, 8, 3))}
    prepare(folder, "faces", "1.0.0", splits, num_classes=0, extra=smiles)
    lines = [*MODES, *WARNED_MODES, *WRONG_MODES, OVERFLOWING, *DEFAULT_WEIGHTS]
    is_whole = lambda line: "--weights" in line or line in DEFAULT_WEIGHTS  # noqa: E731
    commands = [(line if is_whole(line) else f"--weights classes.h5 {line}").split() for line in lines]
    ((answers, pictures_of),) = call_all((answers_and_pictures, (commands, folder), environment()))
    return folder, dict(zip(lines, answers, strict=True)), pictures_of


def answers_and_pictures(commands, folder):
    """(what the command answers, {its --out: (the images of its picture, how it is labelled)})."""
    from glow_tf.evaluation import visualization

    pictures, drawn = {}, []
    grid, scatter, save = visualization.labelled_grid, visualization.scatter, visualization.save_image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visualization, "labelled_grid", lambda *a, **k: drawn.append((*a, k)) or grid(*a, **k))
        patch.setattr(visualization, "scatter", lambda *a, **k: drawn.append((*a, k)) or scatter(*a, **k))
        patch.setattr(
            visualization, "save_image", lambda out, image: pictures.update({out: drawn.pop()}) or save(out, image)
        )
        return answers_of("sample", commands, folder), pictures


@pytest.mark.parametrize("line", MODES)
def test_modes(modes, line):
    folder, answers, _ = modes
    status, output, error = answers[line]
    said, written = MODES[line]
    assert status == 0, error
    assert said in output
    assert (folder / written).stat().st_size > 100


def check_images(found, expected):
    """Nearly all bytes are equal: another process may round a pixel to the other side of a bin."""
    expected = np.reshape(expected, found.shape)
    assert np.mean(found == expected) > 0.98


def test_samples_are_those_of_the_flags_under_their_labels(modes, classes):
    pictures = modes[2]
    images, given = pictures["s.png"]
    check_images(images, classes.sample(80, 0.7, seed=1, labels=np.repeat(np.arange(10), 8)))
    assert given["row_labels"] == [f"class {digit}" for digit in range(10)] and "seed 1" in given["caption"]
    assert "Model: classes.h5, trained 1,090 steps; " in given["caption"]
    check_images(pictures["label.webp"][0], classes.sample(5, 0.7, seed=1, labels=[7] * 5))
    images, given = pictures["t.png"]
    check_images(images, editing.temperatures(classes, drawings.TEMPERATURES, 3, seed=1))
    assert given["row_labels"][0] == "temperature 0\nthe mode" and given["row_labels"][-1] == "temperature 1"
    for name, frames in (("t.gif", 8), ("q.gif", 3)):  # they go there and back
        with Image.open(modes[0] / name) as moving:
            assert moving.n_frames == 2 * frames - 2


def test_edited_images_are_those_of_the_flags_under_their_labels(modes, classes, levels):
    pictures = modes[2]
    data = image_data.load("digits")
    test = data.test.images
    grey = np.full((1, 8, 8, 1), 60, np.uint8)
    images, given = pictures["r.png"]
    check_images(images[:3], test[[0, 5, 17]])
    assert given["row_labels"] == ("original", "reconstruction")
    assert list(given["column_labels"]) == ["test:0", "test:5", "test:17"]
    assert "; 0 of 192 bytes differ, the model sees 4 bits per channel" in given["caption"]
    images, given = pictures["i.png"]
    pair, label = np.concatenate([grey, test[3:4]]), [metrics.classify(classes, grey)[0], data.test.labels[3]]
    check_images(images, editing.interpolate(classes, pair, 4, label, spherical=True))
    assert given["column_labels"] == ["first image", "33%", "67%", "second image"]
    assert given["row_labels"] == ["a.png to\ntest:3"] and "along a great circle" in given["caption"]
    images, given = pictures["l.png"]
    check_images(images, editing.resample_levels(levels, test[:1], 3, temperature=0.3, seed=2))
    assert [label.split("\n")[1] for label in given["row_labels"]] == ["level 0, fine", "level 1, coarse"]


def test_directions_lead_from_the_images_without_to_those_with_the_attribute(modes, classes):
    folder, _, pictures = modes
    images, labels = image_data.load("digits").train.random_subset(20_000, seed=0)
    ones, eights = (editing.encode(classes, images[labels == c], [0] * np.sum(labels == c)) for c in (1, 8))
    direction = np.load(folder / "new" / "d.npy")
    np.testing.assert_allclose(direction, ones.mean(axis=0) - eights.mean(axis=0), atol=1e-3)
    images, given = pictures["p.png"]
    assert given["column_labels"] == ["class 8\n-1", "unchanged", "class 1\n+1"] and given["marked_column"] == 1
    test = image_data.load("digits").test.images[:2]
    check_images(images, editing.apply_direction(classes, test, direction, [-1.0, 0.0, 1.0], [0, 0]))
    images, given = pictures["q.png"]
    assert given["column_labels"] == ["more d\n+2", "unchanged", "less d\n-2"]
    dark, bright = (np.full((1, 8, 8, 1), value, np.uint8) for value in (60, 200))
    check_images(images, editing.apply_direction(classes, dark, direction, [2.0, 0.0, -2.0], [0]))
    images, given = pictures["c.png"]
    assert given["column_labels"] == ["less dark\n-1", "-0.5", "unchanged", "+0.5", "more dark\n+1"]
    direction = editing.attribute_direction(classes, dark, bright, [0], [0])
    check_images(images, editing.apply_direction(classes, dark, direction, np.linspace(-1, 1, 5), [0]))
    assert pictures["pca.png"][1]["column_labels"] == ["-3σ", "mean", "+3σ"]
    shares = [label.split("\n")[1] for label in pictures["pca.png"][1]["row_labels"]]
    points, labels, names, given = pictures["pca-scatter.png"]
    np.testing.assert_array_equal(labels, image_data.load("digits").test.random_subset(256, seed=0)[1])
    assert names == tuple("0123456789") and np.std(points, axis=0, ddof=1) == pytest.approx([1.0, 1.0])
    for number, (share, name) in enumerate(zip(shares, given["axis_names"], strict=True), 1):
        assert name.startswith(f"component {number}, {share} ")


@pytest.mark.parametrize("line", DEFAULT_WEIGHTS)
def test_the_default_weights_go_by_what_is_read(modes, line):
    folder, answers, _ = modes
    status, output, error = answers[line]
    assert status == 0, error
    assert DEFAULT_WEIGHTS[line] in output


@pytest.mark.parametrize("line", WARNED_MODES)
def test_modes_make_do_with_what_is_there(modes, line):
    folder, answers, _ = modes
    status, _, error = answers[line]
    assert status == 0, error
    assert error.startswith("warning: ") and error.count("\n") == 1
    assert WARNED_MODES[line] in error
    assert (folder / line.split()[-1]).stat().st_size > 100


@pytest.mark.parametrize("line", WRONG_MODES)
def test_wrong_input_of_a_mode_is_one_line(modes, line):
    status, output, error = modes[1][line]
    assert (status, output) == (2, ""), error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert WRONG_MODES[line] in error


def test_a_picture_without_a_finite_pixel_is_an_error(modes):
    status, _, error = modes[1][OVERFLOWING]
    assert status == 1
    assert "\nerror: no image has finite pixels, so the picture is black or white; lower --temp\n" in error


def test_a_frame_has_the_label_of_its_images(monkeypatch):
    def grid(images, caption, row_labels, columns):
        return images.ravel().tolist(), caption, row_labels

    monkeypatch.setattr(visualization, "labelled_grid", grid)
    images, names = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1), ["x", "y\nz", "w"]
    drawing = drawings.Drawing(images, "", row_labels="ab", column_labels=names)
    columns = [([0, 3], "Title\nx", "ab"), ([1, 4], "Title\ny z", "ab"), ([2, 5], "Title\nw", "ab")]
    assert drawings.frames_of(drawing, "Title") == columns
    rows = [([0, 1, 2], "Title\na", names), ([3, 4, 5], "Title\nb", names)]
    assert drawings.frames_of(dataclasses.replace(drawing, frames=0), "Title") == rows


@pytest.mark.parametrize(("columns", "rows"), [(16, 1), (70, 5)])
def test_many_columns_are_wrapped(columns, rows):
    images = np.full((2, columns, 8, 8, 1), 7, np.uint8)
    names = [f"test:{index}" for index in range(columns)]
    drawing = drawings.Drawing(images, "Many", "", ("original", "reconstruction"), names)
    picture = drawings.picture_of(drawing, "Many")
    cells = (picture == 7).all(axis=-1)
    assert picture.shape[1] < 3000
    assert (np.diff(cells.any(axis=1).astype(int)) == 1).sum() == 2 * rows
    assert (np.diff(cells.any(axis=0).astype(int)) == 1).sum() == -(-columns // rows)
