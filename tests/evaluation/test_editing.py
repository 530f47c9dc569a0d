import numpy as np
import pytest
import tensorflow as tf
from helpers import make_glow

from glow_tf.errors import InputError
from glow_tf.evaluation import editing


@pytest.fixture(scope="module")
def pixels():
    # Photographs are smooth; noise would be clipped when its latents are moved.
    rng = np.random.default_rng(7)
    return (100 + 50 * rng.random((6, 1, 1, 2)) + 20 * rng.random((6, 4, 8, 2))).astype(np.uint8)


def test_interpolation_has_the_images_at_its_ends(small_glow, pixels):
    for spherical in (False, True):
        strips = editing.interpolate(small_glow, pixels[:4], 5, spherical=spherical)
        assert strips.shape == (2, 5, 4, 8, 2) and strips.dtype == np.uint8
        np.testing.assert_array_equal(strips[:, 0], pixels[[0, 2]])
        np.testing.assert_array_equal(strips[:, -1], pixels[[1, 3]])


def test_straight_path_is_linear_in_z(small_glow, pixels):
    z = editing.encode(small_glow, pixels)
    strips = editing.interpolate(small_glow, pixels[:2], 3)
    np.testing.assert_array_equal(strips[0, 1], editing.decode(small_glow, 0.5 * (z[:1] + z[1:2]))[0])


def test_the_length_changes_evenly_along_a_spherical_path(rng):
    start, end = rng.standard_normal((2, 4, 4, 3))
    shares = np.linspace(0, 1, 7)
    lengths = np.linalg.norm(editing.mixture(start, end, shares, spherical=True).reshape(7, -1), axis=1)
    np.testing.assert_allclose(lengths, np.linspace(np.linalg.norm(start), np.linalg.norm(end), 7), rtol=1e-12)
    for odd in (np.zeros_like(start), start, -2 * start):
        path = editing.mixture(start, odd, [0, 0.5, 1], spherical=True)
        assert np.isfinite(path).all()
        np.testing.assert_allclose(path[[0, 2]], [start, odd], atol=1e-12)


def test_interpolation_between_classes_ends_exactly(conditional_glow, pixels):
    strips = editing.interpolate(conditional_glow, pixels[:2], 4, np.array([0, 2]))
    np.testing.assert_array_equal(strips[0, [0, -1]], pixels[:2])


def test_each_image_is_edited_under_its_own_label(conditional_glow, pixels):
    chosen, labels = pixels[:3], np.array([2, 0, 1])
    for_nothing = editing.apply_direction(conditional_glow, chosen, np.zeros([4, 8, 2]), [-1.0, 1.0], labels)
    np.testing.assert_array_equal(for_nothing, chosen[:, np.newaxis].repeat(2, axis=1))
    rows = editing.resample_levels(conditional_glow, chosen, 2, 0.7, seed=1, labels=labels)
    np.testing.assert_array_equal(rows[:, 0], chosen.repeat(2, axis=0))
    strips = editing.interpolate(conditional_glow, pixels[:4], 2, [2, 1, 0, 1])
    np.testing.assert_array_equal(strips.reshape(pixels[:4].shape), pixels[:4])
    direction = editing.attribute_direction(conditional_glow, chosen[:1], chosen[1:], labels[:1], labels[1:])
    z = editing.encode(conditional_glow, chosen, labels)
    np.testing.assert_allclose(direction, z[0] - z[1:].mean(axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("count", "steps"), [(3, 5), (0, 5), (2, 1)])
def test_no_pairs_or_steps_is_an_input_error(small_glow, pixels, count, steps):
    with pytest.raises(InputError, match=str(count if steps == 5 else steps)):
        editing.interpolate(small_glow, pixels[:count], steps)


def test_direction_is_the_difference_of_means(small_glow, pixels, tmp_path):
    direction = editing.attribute_direction(small_glow, pixels[:2], pixels[2:])
    z = editing.encode(small_glow, pixels)
    np.testing.assert_allclose(direction, z[:2].mean(axis=0) - z[2:].mean(axis=0), rtol=0, atol=1e-12)
    strips = editing.apply_direction(small_glow, pixels[:3], direction, [-1.0, 0.0, 1.0])
    assert strips.shape == (3, 3, 4, 8, 2)
    np.testing.assert_array_equal(strips[:, 1], pixels[:3])
    np.testing.assert_array_equal(strips[0, 2], editing.decode(small_glow, z[:1] + direction)[0])
    editing.save_direction(tmp_path / "new" / "d.npy", direction)
    np.testing.assert_array_equal(editing.load_direction(tmp_path / "new" / "d.npy", small_glow), direction)
    with pytest.raises(InputError, match="no images without"):
        editing.attribute_direction(small_glow, pixels, pixels[:0])
    for other in (direction[..., :1], 1.0):  # numpy would broadcast them
        with pytest.raises(InputError, match="the direction has shape"):
            editing.apply_direction(small_glow, pixels, other, [1.0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "direction"),
        (b"not numpy", "direction"),
        (np.zeros([4, 8, 1]), "(4, 8, 1)"),
        (np.zeros([4, 8, 2], int), "finite"),
        (np.full([4, 8, 2], np.nan), "finite"),
        (np.array([{"a": 1}], object), "says object"),
    ],
)
def test_a_file_that_holds_no_direction_is_an_input_error(small_glow, tmp_path, content, said):
    path = tmp_path / "d.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(InputError) as refusal:
        editing.load_direction(path, small_glow)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_one_level_is_sampled_and_the_others_stay(small_glow, pixels, monkeypatch):
    strips = editing.resample_levels(small_glow, pixels[:2], 4, temperature=0.7, seed=1)
    assert strips.shape == (4, 4, 4, 8, 2)
    for row, image in enumerate((0, 0, 1, 1)):
        np.testing.assert_array_equal(strips[row, 0], pixels[image])
    np.testing.assert_array_equal(strips, editing.resample_levels(small_glow, pixels[:2], 4, 0.7, seed=1))
    monkeypatch.setattr(editing, "decode", lambda glow, z, labels: z)
    z = editing.resample_levels(small_glow, pixels[:2], 40, temperature=0.7, seed=1)
    for row, own in zip(z, np.repeat(editing.encode(small_glow, pixels[:2]), 2, axis=0), strict=True):
        np.testing.assert_allclose(row[0], own, atol=1e-12)
    for row, level in zip(z, (0, 1, 0, 1), strict=True):
        levels = small_glow.split_latents(row)
        assert np.std(levels[level][1:]) == pytest.approx(0.7, rel=0.1)
        assert np.ptp(levels[1 - level], axis=0).max() < 1e-12


def test_principal_components_are_where_z_varies(rng):
    directions = np.linalg.qr(rng.standard_normal((32, 2)))[0].T
    scores = rng.standard_normal((400, 2)) * [5.0, 2.0]
    z = (1.0 + scores @ directions + 0.01 * rng.standard_normal((400, 32))).reshape(400, 4, 4, 2)
    found = editing.principal_components(z, 2)
    np.testing.assert_allclose(found.mean, z.mean(axis=0))
    for index, deviation in enumerate((5.0, 2.0)):
        direction = found.directions[index].ravel()
        assert np.linalg.norm(direction) == pytest.approx(deviation, rel=0.1)
        assert abs(direction @ directions[index]) == pytest.approx(np.linalg.norm(direction), rel=0.02)
    np.testing.assert_allclose(found.scores.std(axis=0, ddof=1), 1.0, rtol=1e-6)
    assert found.share.sum() <= 1.0 and found.share[0] > found.share[1] > 0.1
    assert editing.principal_components(z, 1).share == pytest.approx([25 / 29], abs=0.05)
    restored = found.mean + np.tensordot(found.scores, found.directions, 1)
    np.testing.assert_allclose(restored, z, rtol=0, atol=0.1)
    same = editing.principal_components(np.ones((5, 4, 4, 2)), 2)
    assert np.isfinite(same.scores).all() and not same.share.any() and not same.directions.any()
    for count in (0, 400):
        with pytest.raises(InputError, match="399"):
            editing.principal_components(z, count)


def test_tensors_are_edited_like_arrays(small_glow, pixels, rng):
    direction, z = rng.standard_normal(small_glow.config.image_shape), rng.standard_normal((5, 4, 8, 2))
    for edit, values in (
        (lambda values: editing.apply_direction(small_glow, pixels, values, [0.0, 1.0]), direction),
        (lambda values: editing.principal_components(values, 2).scores, z),
    ):
        np.testing.assert_array_equal(edit(tf.constant(values)), edit(values))


def test_components_start_at_the_mean(conditional_glow, pixels):
    z = editing.encode(conditional_glow, pixels, [0] * 6)
    components = editing.principal_components(z, 2)
    strips = editing.along_components(conditional_glow, components, [-1.0, 0.0, 1.0], [0, 0])
    assert strips.shape == (2, 3, 4, 8, 2)
    np.testing.assert_array_equal(strips[0, 1], strips[1, 1])
    np.testing.assert_array_equal(strips[0, 1], editing.decode(conditional_glow, z.mean(axis=0)[np.newaxis], [0])[0])


def test_temperatures_share_their_noise(small_glow, conditional_glow):
    strips = editing.temperatures(small_glow, (0.0, 0.5, 1.0), 3, seed=4)
    for row, temperature in enumerate((0.0, 0.5, 1.0)):
        np.testing.assert_array_equal(strips[row], small_glow.sample(3, temperature, seed=4))
    (strip,) = editing.temperatures(conditional_glow, [0.5], 3, seed=4, labels=[2, 2, 0])
    np.testing.assert_array_equal(strip, conditional_glow.sample(3, 0.5, seed=4, labels=[2, 2, 0]))


def test_reconstructions_are_exact(pixels):
    glow = make_glow(num_bits=5)
    originals, reconstructions = editing.reconstruct(glow, pixels)
    np.testing.assert_array_equal(originals, pixels & 0xF8)
    np.testing.assert_array_equal(reconstructions, originals)
