"""The folder reader: every kind of picture, every kind of file that is none."""

import io
import logging
import os
import pathlib
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from glow_tf.data import image_folder
from glow_tf.errors import InputError

PHOTOGRAPHS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "cifar10_jpeg.tar.xz"
RULES = image_folder.ReadRules()
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def random_picture(height=6, width=5, mode="RGB", seed=0):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "LA": (2,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(values, mode) if mode == "CMYK" else Image.fromarray(values)


def fill(folder, count, **kwargs):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random_picture(seed=number, **kwargs).save(folder / f"{number:03}.png")
    return folder


def decode(path, channels=3, image_size=None, rules=RULES):
    return image_folder.decode(path, image_size=image_size, channels=channels, rules=rules)


def png_with_header(width, height):
    """A PNG of a few bytes that claims to be width x height."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


# What is read


def test_every_lossless_format_gives_the_exact_pixels(tmp_path):
    picture = random_picture()
    for extension in ("png", "bmp", "tiff", "TIF"):
        picture.save(tmp_path / f"a.{extension}")
    picture.save(tmp_path / "a.webp", lossless=True)
    read = image_folder.read_folder(tmp_path)
    assert read.paths == ("a.TIF", "a.bmp", "a.png", "a.tiff", "a.webp")
    assert read.images.dtype == np.uint8
    np.testing.assert_array_equal(read.images, np.broadcast_to(np.asarray(picture), (5, 6, 5, 3)))


def test_content_counts_more_than_the_extension(tmp_path):
    random_picture().save(tmp_path / "really_a_png.jpg", format="PNG")
    np.testing.assert_array_equal(decode(tmp_path / "really_a_png.jpg"), np.asarray(random_picture()))


def test_jpeg_is_close(tmp_path):
    gradient = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (64, 64, 3))
    Image.fromarray(np.ascontiguousarray(gradient)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - gradient).max() <= 6


def test_grey_becomes_three_equal_channels_and_colour_becomes_itu_grey(tmp_path):
    random_picture(mode="L").save(tmp_path / "grey.png")
    grey = np.asarray(random_picture(mode="L"))
    np.testing.assert_array_equal(decode(tmp_path / "grey.png"), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(decode(tmp_path / "grey.png", channels=1)[..., 0], grey)
    random_picture().save(tmp_path / "colour.png")
    weighted = np.asarray(random_picture()) @ [0.299, 0.587, 0.114]
    assert np.abs(decode(tmp_path / "colour.png", channels=1)[..., 0] - weighted).max() <= 0.51


@pytest.mark.parametrize("background, value", [("black", 0), ("white", 255)])
def test_alpha_is_composited_over_the_background(tmp_path, background, value):
    picture = np.zeros((1, 3, 4), np.uint8)
    picture[..., 0] = 200
    picture[0, :, 3] = 0, 128, 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    red = decode(tmp_path / "a.png", rules=image_folder.ReadRules(background=background))[0, :, 0]
    expected = [value, round(200 * 128 / 255 + value * 127 / 255), 200]
    assert np.abs(red.astype(int) - expected).max() <= 1
    assert (red[0], red[2]) == (value, 200)


def test_grey_with_alpha_is_composited_or_kept(tmp_path):
    picture = np.array([[[90, 0], [90, 255]]], np.uint8)
    Image.fromarray(picture, "LA").save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", channels=1).tolist() == [[[0], [90]]]
    assert decode(tmp_path / "a.png").tolist() == [[[0] * 3, [90] * 3]]
    np.testing.assert_array_equal(decode(tmp_path / "a.png", channels=2), picture)


def test_rgba_is_kept_with_four_channels_and_opaque_where_there_is_no_alpha(tmp_path):
    random_picture(mode="RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", channels=4), np.asarray(random_picture(mode="RGBA")))
    random_picture().save(tmp_path / "b.png")
    assert (decode(tmp_path / "b.png", channels=4)[..., 3] == 255).all()


def test_palette_with_and_without_transparency(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *BLUE])
    picture.putdata([0, 1])
    picture.save(tmp_path / "opaque.png")
    picture.save(tmp_path / "transparent.png", transparency=0)
    assert decode(tmp_path / "opaque.png").tolist() == [[list(RED), list(BLUE)]]
    assert decode(tmp_path / "transparent.png").tolist() == [[[0, 0, 0], list(BLUE)]]


def test_one_bit(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    assert decode(tmp_path / "a.png").tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_of_sixteen_bits_the_high_eight_are_kept(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    Image.fromarray(np.array([[0, 255, 256, 0x1234, 65535]], np.uint16)).save(path)
    assert Image.open(path).mode.startswith("I")
    assert decode(path, channels=1)[0, :, 0].tolist() == [0, 0, 1, 0x12, 255]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = decode(tmp_path / "a.jpg")[8, 8]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("extension", ["gif", "webp", "tiff"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, extension):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    lossless = {"lossless": True} if extension == "webp" else {}
    frames[0].save(tmp_path / f"a.{extension}", save_all=True, append_images=frames[1:], **lossless)
    assert decode(tmp_path / f"a.{extension}")[4, 4].tolist() == list(RED)


def test_exif_rotation_is_applied(tmp_path):
    picture = Image.new("RGB", (32, 16), BLUE)  # 32 wide, 16 high, its left half red
    picture.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left edge becomes the top
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    image = decode(tmp_path / "a.jpg").astype(int)
    assert image.shape == (32, 16, 3)
    assert np.abs(image[:14] - RED).max() < 12 and np.abs(image[18:] - BLUE).max() < 12


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused(mode):
    picture = Image.new(mode, (2, 2), 70_000)
    with pytest.raises(ValueError, match="range|beyond 16 bits"):
        image_folder.to_mode(picture, 3)


# Sizes


def test_a_picture_of_the_right_size_is_not_touched():
    picture = random_picture(8, 8)
    np.testing.assert_array_equal(image_folder.crop_and_resize(picture, (8, 8)), picture)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(image_folder.crop_and_resize(Image.fromarray(stripes), (16, 16)))
    assert np.abs(small[:, 2:-2].astype(int) - 127.5).max() <= 2  # without, a column is all 0 or all 255


def test_the_crop_is_centred_to_a_fraction_of_a_pixel():
    ramp = np.broadcast_to(np.arange(101, dtype=np.uint8) * 2, (50, 101))
    small = np.asarray(image_folder.crop_and_resize(Image.fromarray(np.ascontiguousarray(ramp)), (10, 10)))
    centre = small[:, 2:-2].mean()
    assert abs(centre - 100) < 0.6


def test_the_crop_is_centred_and_nothing_is_distorted():
    values = np.zeros((10, 30), np.uint8)
    values[:, 10:20] = np.random.default_rng(0).integers(1, 256, (10, 10))
    cropped = image_folder.crop_and_resize(Image.fromarray(values), (10, 10))
    np.testing.assert_array_equal(cropped, values[:, 10:20])
    tall = image_folder.crop_and_resize(Image.fromarray(values.T), (10, 10))
    np.testing.assert_array_equal(tall, values.T[10:20])


def test_enlarging_keeps_a_flat_picture_flat():
    enlarged = image_folder.crop_and_resize(Image.new("RGB", (3, 3), (9, 8, 7)), (16, 16))
    np.testing.assert_array_equal(enlarged, np.broadcast_to([9, 8, 7], (16, 16, 3)))


@pytest.mark.parametrize("width, height", [(1, 1), (1, 10_000), (10_000, 1), (7, 3)])
@pytest.mark.parametrize("image_size", [(1, 1), (4, 4), (3, 8)])
def test_odd_sizes_become_the_wanted_one(tmp_path, width, height, image_size):
    Image.new("RGB", (width, height), (1, 2, 3)).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png", image_size=image_size)
    np.testing.assert_array_equal(image, np.broadcast_to([1, 2, 3], (*image_size, 3)))


def test_a_large_jpeg_is_decoded_smaller_but_nearly_the_same(tmp_path):
    y, x = np.mgrid[:400, :600]
    values = np.stack([x * 255 // 600, y * 255 // 400, (x + y) * 255 // 1000], -1).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.jpg", quality=95)
    exact = np.asarray(image_folder.crop_and_resize(Image.fromarray(values), (32, 32)))
    image = decode(tmp_path / "a.jpg", image_size=(32, 32))
    assert np.abs(image.astype(int) - exact).max() <= 4


def test_pictures_of_several_sizes_need_an_image_size(tmp_path):
    random_picture(6, 5).save(tmp_path / "a.png")
    random_picture(6, 7).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="6x5.*6x7"):
        image_folder.read_folder(tmp_path)
    assert image_folder.read_folder(tmp_path, image_size=(4, 4)).images.shape == (2, 4, 4, 3)


# Classes and splits


def test_sub_folders_are_classes_in_sorted_order(tmp_path):
    for name, count in (("zebra", 2), ("ant", 3), ("Bee", 1)):
        fill(tmp_path / name, count)
    fill(tmp_path / "zebra" / "stallions", 1)
    (tmp_path / "empty").mkdir()
    read = image_folder.read_folder(tmp_path)
    assert read.class_names == ("Bee", "ant", "zebra")
    assert read.labels.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert read.labels.dtype == np.int32
    assert read.paths[0] == os.path.join("Bee", "000.png")


def test_flat_mixed_and_single_folders_have_no_classes(tmp_path):
    fill(tmp_path / "only", 2)
    assert image_folder.read_folder(tmp_path).class_names == ()
    fill(tmp_path / "another", 2)
    fill(tmp_path, 1)
    read = image_folder.read_folder(tmp_path)
    assert read.class_names == () and read.labels.tolist() == [0] * 5


def test_find_splits(tmp_path):
    assert image_folder.find_splits(tmp_path) == (str(tmp_path), None)
    (tmp_path / "Train").mkdir()
    assert image_folder.find_splits(tmp_path) == (str(tmp_path / "Train"), None)
    (tmp_path / "validation").mkdir()
    assert image_folder.find_splits(tmp_path) == (str(tmp_path / "Train"), str(tmp_path / "validation"))
    (tmp_path / "test").mkdir()
    assert image_folder.find_splits(tmp_path) == (str(tmp_path / "Train"), str(tmp_path / "test"))


# Faults


def test_unusable_folders(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        image_folder.read_folder(tmp_path / "missing")
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(InputError, match="not a folder"):
        image_folder.read_folder(tmp_path / "file.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"found 0 images in .*; formats: PNG, JPEG, WEBP, BMP, TIFF, GIF"):
        image_folder.read_folder(tmp_path / "empty")


def test_companions_are_ignored_and_not_counted(tmp_path, caplog):
    fill(tmp_path, 1)
    for name in ("labels.csv", "README", "a.json", "Thumbs.db", ".DS_Store", "._000.png", "notes.TXT"):
        (tmp_path / name).write_text("x")
    fill(tmp_path / ".cache", 1)
    fill(tmp_path / "__MACOSX", 1)
    assert len(image_folder.read_folder(tmp_path).images) == 1
    assert not caplog.records


def broken_files(folder):
    good = io.BytesIO()
    random_picture(64, 64).save(good, "JPEG")
    contents = {
        "empty.png": b"",
        "truncated.jpg": good.getvalue()[: len(good.getvalue()) // 2],
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "bomb.png": png_with_header(9_000, 9_000),
        "larger_bomb.png": png_with_header(20_000, 20_000),
        "cut.png": png_with_header(10, 10)[:40],
        "photo.heic": b"\0\0\0\x18ftypheic",
        "photo.avif": b"\0\0\0\x18ftypavif",
        "array.npy": b"\x93NUMPY",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return sorted(contents)


def test_broken_files_are_skipped_and_each_is_named(tmp_path, caplog):
    fill(tmp_path, 4)
    names = broken_files(tmp_path)
    with caplog.at_level(logging.WARNING):
        read = image_folder.read_folder(tmp_path, rules=image_folder.ReadRules(max_bad_fraction=0.9))
    assert read.paths == ("000.png", "001.png", "002.png", "003.png")
    np.testing.assert_array_equal(read.images[2], np.asarray(random_picture(seed=2)))
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split("'")[1] for message in messages] == names
    reasons = dict(zip(names, messages, strict=True))
    assert "64000000" in reasons["bomb.png"] and ".heic" in reasons["photo.heic"]
    assert "content is none of PNG" in reasons["page.jpg"]


def test_too_many_broken_files_are_an_error(tmp_path):
    fill(tmp_path, 19)
    (tmp_path / "bad1.png").write_bytes(b"")
    assert len(image_folder.read_folder(tmp_path).images) == 19  # exactly 5 %
    (tmp_path / "bad2.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 of 21 files .* 5% .*'bad1.png': .*'bad2.png'") as caught:
        image_folder.read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_long_lists_of_warnings_end_with_a_count(tmp_path, caplog):
    fill(tmp_path, 2)
    for number in range(30):
        (tmp_path / f"{number}.heic").write_bytes(b"")
    image_folder.read_folder(tmp_path, rules=image_folder.ReadRules(max_bad_fraction=1.0))
    assert len(caplog.records) == 21
    assert "10 more" in caplog.records[-1].getMessage()


def test_a_folder_of_nothing_but_broken_files_is_an_error_at_any_tolerance(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 1"):
        image_folder.read_folder(tmp_path, rules=image_folder.ReadRules(max_bad_fraction=1.0))


@pytest.mark.parametrize("side", [9_000, 20_000, 60_000])
def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch, side):
    (tmp_path / "a.png").write_bytes(png_with_header(side, side))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises((ValueError, Image.DecompressionBombError), match=f"{side}x{side}|{side**2}"):
        decode(tmp_path / "a.png")


def test_the_limit_on_pixels_can_be_moved(tmp_path):
    random_picture(11, 10).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="10x11 pixels are more than the limit of 109"):
        decode(tmp_path / "a.png", rules=image_folder.ReadRules(max_pixels=109))
    assert decode(tmp_path / "a.png", rules=image_folder.ReadRules(max_pixels=110)).shape == (11, 10, 3)


def test_the_shortest_side_can_be_demanded(tmp_path):
    Image.new("RGB", (3, 100)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="3x100 pixels; the shorter side must have 4"):
        decode(tmp_path / "a.png", rules=image_folder.ReadRules(min_side=4))


def test_odd_names_are_read_and_escaped_in_messages(tmp_path, caplog):
    names = [
        "-rf.png",
        "with space.png",
        "naïve 日本.png",
        "<b>bold</b>.png".replace("/", "_"),
        "line\nbreak.png",
    ]
    for name in names:
        random_picture().save(tmp_path / name)
    (tmp_path / "bad\nname \u202e.png").write_bytes(b"")
    undecodable = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(undecodable, "wb") as file:
        random_picture().save(file, "PNG")
    read = image_folder.read_folder(tmp_path, rules=image_folder.ReadRules(max_bad_fraction=0.5))
    assert len(read.images) == len(names) + 1 and set(names) < set(read.paths)
    (record,) = caplog.records
    assert "bad\\nname \\u202e.png" in record.getMessage() and "\n" not in record.getMessage()


def test_links_are_not_followed(tmp_path, caplog):
    outside = fill(tmp_path / "outside", 3)
    inside = fill(tmp_path / "inside", 4)
    (inside / "loop").symlink_to(inside)
    (inside / "elsewhere").symlink_to(outside)
    (inside / "file.png").symlink_to(outside / "000.png")
    (inside / "broken.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(inside / "pipe.png")
    read = image_folder.read_folder(inside, rules=image_folder.ReadRules(max_bad_fraction=0.9))
    assert len(read.images) == 4
    assert len(caplog.records) == 5
    (tmp_path / "alias").symlink_to(inside)  # the folder that was asked for may itself be a link
    assert (
        len(image_folder.read_folder(tmp_path / "alias", rules=image_folder.ReadRules(max_bad_fraction=0.9)).images)
        == 4
    )


def test_an_array_that_memory_cannot_hold_is_refused_before_it_is_filled(tmp_path, monkeypatch):
    fill(tmp_path, 3)
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    with pytest.raises(InputError, match="GiB.*lower the image size"):
        image_folder.read_folder(tmp_path)


def test_impossible_arguments():
    with pytest.raises(InputError, match="channels is 5"):
        image_folder.read_folder(".", channels=5)
    with pytest.raises(InputError, match="'grey'.*'black' or 'white'"):
        image_folder.ReadRules(background="grey")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags
def test_fuzzed_files_never_stop_the_reader(tmp_path):
    fill(tmp_path, 1)
    rng = np.random.default_rng(0)
    for number in range(150):
        extension = ("png", "jpg", "webp", "bmp", "tiff", "gif")[number % 6]
        buffer = io.BytesIO()
        random_picture(16, 16, seed=number).save(buffer, {"jpg": "jpeg"}.get(extension, extension))
        content = bytearray(buffer.getvalue())
        for position in rng.integers(0, len(content), 8):
            content[position] = rng.integers(256)
        (tmp_path / f"fuzz{number}.{extension}").write_bytes(content)
    rules = image_folder.ReadRules(max_bad_fraction=1.0)
    read = image_folder.read_folder(tmp_path, image_size=(8, 8), rules=rules)
    assert 1 <= len(read.images) <= 151 and read.images.shape[1:] == (8, 8, 3)


def test_photographs(tmp_path):
    if not PHOTOGRAPHS.exists():
        pytest.skip(f"needs {PHOTOGRAPHS.name} in ../shared/data")
    with tarfile.open(PHOTOGRAPHS) as archive:
        count = 0
        while count < 20 and (member := archive.next()):
            if member.isfile():
                archive.extract(member, tmp_path, filter="data")
                count += 1
    read = image_folder.read_folder(tmp_path)
    assert read.images.shape == (20, 32, 32, 3)
    assert 20 < read.images.mean() < 235 and read.images.std() > 20
