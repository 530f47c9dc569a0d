import numpy as np
import pytest
from PIL import Image

from glow_tf.evaluation import visualization


def test_grid_holds_every_image(rng):
    images = rng.integers(0, 256, (5, 40, 30, 3)).astype(np.uint8)
    whole = visualization.grid(images, columns=2)
    assert whole.shape == (3 * 42 + 2, 2 * 32 + 2, 3)
    np.testing.assert_array_equal(whole[2:42, 2:32], images[0])
    np.testing.assert_array_equal(whole[44:84, 34:64], images[3])
    assert np.all(whole[86:126, 34:64] == visualization.BORDER_VALUE)


def test_row_names_leave_the_images_as_they_are(rng):
    images = rng.integers(0, 256, (4, 64, 64, 1)).astype(np.uint8)
    plain, named = visualization.grid(images, 2), visualization.grid(images, 2, ["zero", "seventeen"])
    margin = named.shape[1] - plain.shape[1]
    assert margin > 50 and named.shape[2] == 3
    np.testing.assert_array_equal(named[:, margin:], np.repeat(plain, 3, axis=-1))
    assert named[:, :margin].max() > 200  # something is written


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_goes_there_and_back(tmp_path, channels):
    strips = np.zeros((2, 4, 64, 64, channels), np.uint8) + np.array([0, 80, 160, 240], np.uint8).reshape(1, 4, 1, 1, 1)
    visualization.save_gif(tmp_path / "new" / "a.gif", strips)
    with Image.open(tmp_path / "new" / "a.gif") as moving:
        assert moving.n_frames == 6 and moving.info["loop"] == 0
        found = []
        for frame in range(6):
            moving.seek(frame)
            found.append(np.asarray(moving.convert("RGB"))[30, 30, 0])
    np.testing.assert_allclose(found, [0, 80, 160, 240, 160, 80], atol=2)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gif"]


def test_scatter_puts_points_in_their_place():
    points = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    plot = visualization.scatter(points, np.array([0, 1, 2]), ["a", "b", "c"], ("across", "up"), side=400)
    assert plot.shape == (400, 540, 3)
    places, colours = [(200, 200), (352, 200), (200, 48)], [(0, 114, 178), (230, 159, 0), (0, 158, 115)]
    for (across, up), colour in zip(places, colours, strict=True):
        assert tuple(plot[up, across]) == colour
    assert visualization.scatter(np.zeros((3, 2)), side=200).shape == (200, 200, 3)
