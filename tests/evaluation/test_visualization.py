import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from glow_tf.errors import InputError
from glow_tf.evaluation import ood, visualization


def place_of(picture, image):
    """(y, x) where an image stands in a picture, pixel for pixel."""
    height, width, _ = image.shape
    windows = np.lib.stride_tricks.sliding_window_view(picture, image.shape)[:, :, 0]
    corners = np.argwhere((windows[:, :, 0, 0] == image[0, 0]).all(axis=-1))
    return next((y, x) for y, x in corners if np.array_equal(picture[y : y + height, x : x + width], image))


@pytest.mark.parametrize(("side", "channels", "factor"), [(8, 1, 16), (48, 3, 2), (256, 4, 1)])
def test_grid_shows_every_image_in_its_own_colours_row_by_row(rng, side, channels, factor):
    images = rng.integers(0, 256, (5, side, side, channels)).astype(np.uint8)
    picture = visualization.labelled_grid(images, caption="five", columns=2, row_labels=["a", "b", "c"])
    enlarged = (visualization.to_rgb(image).repeat(factor, axis=0).repeat(factor, axis=1) for image in images)
    places = [place_of(picture, image) for image in enlarged]
    assert places == sorted(places) and len({x for _, x in places}) == 2


@pytest.mark.parametrize(("count", "columns"), [(40, 8), (7, 3), (64, 8)])
def test_a_grid_is_about_square_without_empty_cells_if_possible(rng, count, columns):
    images = rng.integers(0, 256, (count, 2, 2, 1)).astype(np.uint8)
    expected = visualization.labelled_grid(images, columns=columns)
    np.testing.assert_array_equal(visualization.labelled_grid(images), expected)


def is_text(area):
    """Whether dark letters stand on white ground."""
    return area.min() < 128 and area.max() == 255 and (area == 255).mean() > 0.5


@pytest.mark.parametrize("side", [8, 32, 256])
def test_caption_and_labels_have_a_readable_size(side):
    images = np.full((6, side, side, 1), 200, np.uint8)
    plain = visualization.labelled_grid(images, columns=3)
    height, width = plain.shape[:2]
    captioned = visualization.labelled_grid(images, columns=3, caption="Title\nnote")
    rows = visualization.labelled_grid(images, columns=3, row_labels=["a label", "another"])
    columns = visualization.labelled_grid(images, column_labels=["1", "2", "3"])
    for taken in (captioned.shape[0] - height, rows.shape[1] - width, columns.shape[0] - height):
        assert taken >= max(visualization.MIN_FONT_SIZE, width // 60)
    assert is_text(captioned[: captioned.shape[0] - height])
    assert is_text(rows[:, : rows.shape[1] - width])
    assert is_text(columns[: columns.shape[0] - height + 8])


def test_labels_stand_beside_their_rows_and_over_their_columns():
    images = np.full((4, 64, 64, 1), 200, np.uint8)
    labels = {"row_labels": ["", "second"], "column_labels": ["", "second"]}
    picture = visualization.labelled_grid(images, columns=2, **labels)
    cells = np.argwhere((picture == 200).all(axis=-1))
    (top, left), (y, x) = cells.min(axis=0), cells.mean(axis=0)
    dark = np.argwhere((picture < 100).all(axis=-1))
    beside, over = dark[dark[:, 1] < left], dark[dark[:, 0] < top]
    assert len(beside) and beside[:, 0].min() > y
    assert len(over) and over[:, 1].min() > x


def test_long_texts_stay_inside_the_picture():
    images = np.zeros((2, 8, 8, 1), np.uint8)
    picture = visualization.labelled_grid(
        images, caption=f"{'long ' * 60}\n{'x' * 500}", column_labels=["n" * 200, "\x1b[31mred"]
    )
    assert picture.shape[0] < 700 and picture.shape[1] < 1000
    assert (picture[:, -8:] == 255).all() and (picture[-8:] == 255).all()


def test_marked_column_has_a_frame():
    images = np.zeros((4, 8, 8, 1), np.uint8)
    plain = visualization.labelled_grid(images, columns=2)
    marked = visualization.labelled_grid(images, columns=2, marked_column=1)
    changed = np.argwhere((plain != marked).any(axis=-1))
    assert tuple(marked[tuple(changed[0])]) == (0xD5, 0x5E, 0)
    assert changed[:, 1].min() == 145  # the margin of 15, a border of 2 and a cell of 128 pixels


def test_files_are_what_their_ending_says(tmp_path, rng):
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for name, kind in (("a.png", "PNG"), ("new/b.JPG", "JPEG"), ("c.webp", "WEBP")):
        visualization.save_image(tmp_path / name, image)
        with Image.open(tmp_path / name) as written:
            assert written.format == kind
            if kind != "JPEG":
                np.testing.assert_array_equal(written.convert("RGB"), image)
    with pytest.raises(InputError, match=r"must end in \.png, \.jpg, \.jpeg or \.webp"):
        visualization.save_image(tmp_path / "d.bmp", image)
    for name in ("e.webp", "f.jpg"):
        with pytest.raises(InputError, match="the picture has 66000x1 pixels, and .* per side; name a PNG file"):
            visualization.save_image(tmp_path / name, np.zeros((1, 66_000, 3), np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_goes_there_and_back(tmp_path, channels):
    frames = [np.full((64, 64 + value, channels), value, np.uint8) for value in (0, 80, 160, 240)]
    visualization.save_gif(tmp_path / "new" / "a.gif", frames)
    with Image.open(tmp_path / "new" / "a.gif") as moving:
        assert moving.n_frames == 6 and (moving.info["loop"], moving.info["duration"]) == (0, 120)
        assert moving.size == (64 + 240, 64)
        greys = []
        for frame in range(6):
            moving.seek(frame)
            greys.append(np.asarray(moving.convert("RGB"))[30, 30, 0])
    np.testing.assert_allclose(greys, [0, 80, 160, 240, 160, 80], atol=2)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gif"]


def pixels(plot, colour):
    """[N, 2], the (y, x) of the pixels of a colour."""
    return np.argwhere((np.abs(plot.astype(int) - colour) <= 3).all(axis=-1))


def test_scatter_has_a_range_for_each_axis():
    points = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 200.0]])
    plot = visualization.scatter(points, np.array([0, 1, 2]), ["a", "_b", "$c$"], caption="three\nnote")
    colours = ((0, 114, 178), (230, 159, 0), (0, 158, 115))
    blue, orange, green = (pixels(plot[:, :720], colour).mean(axis=0) for colour in colours)
    assert orange[1] - blue[1] > 300 and blue[0] - green[0] > 300
    # The legend shows the colour of each class, also of names that matplotlib would read as something else.
    assert all(len(pixels(plot[:, 740:], colour)) for colour in colours)
    assert visualization.scatter(np.zeros((3, 2))).shape == (640, 640, 3)


def test_scatter_names_its_axes(monkeypatch):
    named = {}
    monkeypatch.setattr(Axes, "set_xlabel", lambda self, text: named.update(x=text))
    monkeypatch.setattr(Axes, "set_ylabel", lambda self, text: named.update(y=text))
    visualization.scatter(np.zeros((3, 2)), axis_names=("first", "second"))
    assert named == {"x": "first", "y": "second"}


def test_points_far_outside_do_not_squeeze_the_others(rng, monkeypatch):
    notes, write = [], Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **k: notes.append(text) or write(self, x, y, text, **k))
    points = rng.standard_normal((200, 2))
    width = np.ptp(pixels(visualization.scatter(points), (0, 114, 178))[:, 1])
    points[0] = 1e6, 0
    far = pixels(visualization.scatter(points, caption="title"), (0, 114, 178))
    assert np.ptp(far[far[:, 1] < np.quantile(far[:, 1], 0.98)][:, 1]) > 0.5 * width
    assert far[:, 1].max() > 600  # the triangle at the edge
    assert notes == ["", "1 of 200 points lie outside and are drawn as triangles at the edge"]


def test_labels_of_large_images_shrink_before_the_images_grow():
    labels = ["-1", "-0.5", "unchanged", "+0.5", "+1"]
    assert visualization.labelled_grid(np.zeros((5, 256, 256, 3), np.uint8), column_labels=labels).shape[1] < 1400
    wide = visualization.labelled_grid(np.zeros((9, 256, 256, 3), np.uint8), column_labels=["unchanged"] * 9)
    assert 9 * 256 < wide.shape[1] < 10 * 256


FLOATS, GREYS = np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize("images", [FLOATS, FLOATS.astype(int), FLOATS > 0, GREYS, np.zeros((2, 4, 4, 5), np.uint8)])
def test_what_is_no_image_is_an_input_error(images, tmp_path):
    for draw in (
        lambda: visualization.labelled_grid(images),
        lambda: visualization.png(images[0]),
        lambda: visualization.save_image(tmp_path / "a.png", images[0]),
        lambda: visualization.save_gif(tmp_path / "a.gif", images),
        lambda: ood.lossless_bits(images[0]),
    ):
        with pytest.raises(InputError, match="is needed|are needed"):
            draw()
    assert not list(tmp_path.iterdir())


def test_each_row_and_column_has_its_label():
    images = np.zeros((4, 4, 4, 1), np.uint8)
    for labels, said in (
        ({"row_labels": ["a"]}, "1 labels were given for 2 rows"),
        ({"column_labels": list("abc")}, "3 labels were given for 2 columns"),
    ):
        with pytest.raises(InputError, match=said):
            visualization.labelled_grid(images, columns=2, **labels)
    with pytest.raises(InputError, match="one or more"):
        visualization.labelled_grid(images[:0])


def test_scatter_draws_every_point_of_any_labels():
    points, labels = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), np.array([0, 1, 1])
    expected = visualization.scatter(points, labels, ["a", "b"])
    np.testing.assert_array_equal(visualization.scatter(points, labels.tolist(), ["a", "b"]), expected)
    for names in ((), ["a"]):
        with pytest.raises(InputError, match=f"from 0 to 1; integers below {len(names)}, the number of names"):
            visualization.scatter(points, labels, names)
