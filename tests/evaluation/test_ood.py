import csv
import html
import io
import re

import numpy as np
import pytest
from helpers import make_glow
from PIL import Image

from glow_tf import _files
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics, ood, visualization


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(6).integers(0, 256, (6, 4, 8, 2)).astype(np.uint8)


@pytest.fixture
def glow(small_glow):
    small_glow.metadata = {}
    yield small_glow
    small_glow.metadata = {}


def test_scores_are_the_parts_they_name(glow, pixels):
    scores = ood.score(glow, pixels, "abcdef", seed=1)
    assert scores.names == tuple("abcdef")
    columns = scores.columns
    np.testing.assert_allclose(columns["bits_per_dim"], glow.bits_per_dim(pixels, seed=1), rtol=1e-12)
    np.testing.assert_allclose(columns["log_likelihood"], -columns["bits_per_dim"] * 64 * np.log(2), rtol=1e-12)
    lossless = [ood.lossless_bits(image) / 64 for image in pixels]
    np.testing.assert_allclose(columns["corrected_bits_per_dim"], columns["bits_per_dim"] - lossless, rtol=1e-12)
    assert "typicality_p" not in columns and "most_likely_class" not in columns
    for images, names in ((pixels, "ab"), (pixels[:0], "")):
        with pytest.raises(InputError, match=f"{len(images)} images and {len(names)} names were given"):
            ood.score(glow, images, names)


def test_typicality_is_there_when_the_weights_file_knows_it(glow, pixels):
    bits = glow.bits_per_dim(pixels).numpy()
    glow.metadata = {"train_bits_per_dim": metrics.distribution_summary(bits)}
    p = ood.score(glow, pixels, "abcdef").columns["typicality_p"]
    assert np.all(p > 0) and p[np.argmax(bits)] == pytest.approx(1 / 7) and np.max(p) > 0.7
    # The training images were scored with one sample of the noise; more lower the bits/dim of any image.
    np.testing.assert_array_equal(ood.score(glow, pixels, "abcdef", 3).columns["typicality_p"], p)
    lists = [], [2, 1], [1, 10**400]
    for broken in ({}, *({"quantiles": each, "count": 3} for each in lists), {"quantiles": [1, 2], "count": 0}, 3, "x"):
        glow.metadata = {"train_bits_per_dim": broken}
        assert ood.training_summary(glow) is None


def test_each_noise_sample_is_scored_once(glow, pixels, monkeypatch):
    seeds, score = [], glow.bits_per_dim
    monkeypatch.setattr(glow, "bits_per_dim", lambda *a, seed, **k: seeds.append(seed) or score(*a, seed=seed, **k))
    scores = ood.score(glow, pixels, "abcdef", num_importance_samples=3, seed=2)
    assert seeds == [2 + i * metrics.SAMPLE_STRIDE for i in range(3)]
    expected = metrics.bits_per_dim_per_image(glow, pixels, seed=2, num_importance_samples=3)
    np.testing.assert_array_equal(scores.columns["bits_per_dim"], expected)


def test_classes_have_their_names(pixels):
    glow = make_glow(num_classes=3, num_bits=5)
    glow.metadata = {"class_names": ["cat", "dog", "owl"]}
    found = ood.score(glow, pixels, "abcdef").columns
    expected = np.argmax(glow.class_log_probs(glow.dequantizer.dequantize(pixels, 0.5)), axis=1)
    assert list(found["most_likely_class"]) == [["cat", "dog", "owl"][i] for i in expected]
    # The compressor sees the bits that the model sees.
    np.testing.assert_array_equal(found["lossless_bits_per_dim"], [ood.lossless_bits(x, 5) / 64 for x in pixels])
    glow.metadata = {}
    assert {*ood.score(glow, pixels, "abcdef").columns["most_likely_class"]} <= {"0", "1", "2"}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_bits_tell_simple_from_noisy(channels, rng):
    flat = np.full((32, 32, channels), 7, np.uint8)
    noise = rng.integers(0, 256, (32, 32, channels)).astype(np.uint8)
    assert ood.lossless_bits(flat) < 0.2 * flat.size
    assert 7.5 * noise.size < ood.lossless_bits(noise) < 8.6 * noise.size
    # Five bits: the lower three are not part of what the model sees.
    assert ood.lossless_bits(noise, 5) < 5.8 * noise.size
    assert ood.lossless_bits(noise, 5) == ood.lossless_bits(noise & 0xF8, 5)


def test_csv_holds_any_name(tmp_path, glow, pixels):
    names = ["a b.png", 'quo"te, comma.png', "new\nline.png", "ünï.png", "-x.png", "bad\udcff.png"]
    ood.write_csv(tmp_path / "new" / "s.csv", ood.score(glow, pixels, names))
    text = (tmp_path / "new" / "s.csv").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == ["file", "log_likelihood", "bits_per_dim", "lossless_bits_per_dim", "corrected_bits_per_dim"]
    written = ["a b.png", 'quo"te, comma.png', "new\\nline.png", "ünï.png", "'-x.png", "bad\\udcff.png"]
    assert [row[0] for row in rows[1:]] == written
    bits = np.array([float(row[2]) for row in rows[1:]])
    np.testing.assert_allclose(bits, glow.bits_per_dim(pixels), rtol=1e-5)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_holds_no_formula(tmp_path, name):
    ood.write_csv(tmp_path / "s.csv", ood.Scores((name,), {"bits_per_dim": np.array([-2.5])}))
    line = (tmp_path / "s.csv").read_text().splitlines()[1]
    assert line[0] in "'\\" and line.endswith(",-2.5")


def test_html_is_sorted_explained_and_escaped(tmp_path, glow, pixels):
    names = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "&amp;", "\x1b[31mred", "d", "bad\udcff"]
    glow.metadata = {"train_bits_per_dim": metrics.distribution_summary(glow.bits_per_dim(pixels).numpy())}
    scores = ood.score(glow, pixels, names)
    ood.write_html(tmp_path / "s.html", scores, pixels, "<b>title</b>")
    text = (tmp_path / "s.html").read_text()
    assert "<script" not in text and "<img src=x" not in text and "<b>" not in text and "\x1b" not in text
    assert "&lt;script&gt;" in text and "&amp;amp;" in text
    for name in scores.columns:
        assert f"<dt>{name.replace('_', ' ')}</dt><dd>{html.escape(ood.COLUMNS[name])}</dd>" in text
    rows = re.findall("<tr><td><img.*?</tr>", text)
    order = np.argsort(-scores.columns["corrected_bits_per_dim"])
    assert len(rows) == 6 and "data:image/png" in rows[0]
    for index, row in zip(order, rows, strict=True):
        assert html.escape(_files.printable(names[index])) in row
        assert visualization.data_uri(pixels[index]) in row
    assert "likelihood alone" in text and "6 images, sorted by corrected bits per dim" in text


def test_html_of_many_images_shows_the_most_telling(tmp_path, monkeypatch, glow, pixels):
    monkeypatch.setattr(ood, "PAGE_IMAGES", 2)
    scores = ood.score(glow, pixels, "abcdef")
    ood.write_html(tmp_path / "s.html", scores, pixels, "title")
    text = (tmp_path / "s.html").read_text()
    order = np.argsort(-scores.columns["corrected_bits_per_dim"])
    assert re.findall('<td class="file">(.)</td>', text) == ["abcdef"[index] for index in order[:2]]
    assert "2 of 6 images" in text


def test_lossless_bits_hold_the_colours_of_transparent_pixels(rng):
    image = rng.integers(0, 256, (32, 32, 4)).astype(np.uint8)
    image[..., 3] = 0
    assert ood.lossless_bits(image) > 0.95 * 24 * 32 * 32


def test_batches_do_not_change_the_scores_of_the_first(glow, pixels, monkeypatch):
    whole = ood.score(glow, pixels[:4], "abcd").columns
    monkeypatch.setattr(ood, "BATCH_SIZE", 4)
    batched = ood.score(glow, pixels, "abcdef").columns
    for name, values in whole.items():
        np.testing.assert_array_equal(batched[name][:4], values)
    np.testing.assert_allclose(batched["bits_per_dim"][4:], glow.bits_per_dim(pixels[4:], seed=1), rtol=1e-12)


def test_lossless_bits_are_those_of_the_files(rng):
    image = rng.integers(0, 4, (16, 16, 3)).astype(np.uint8) * 64
    sizes = []
    for kind, options in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True, "quality": 100})):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **options)
        sizes.append(8 * len(file.getvalue()))
    assert min(sizes) - 8 * 100 < ood.lossless_bits(image) < min(sizes)
