"""The folder reader: its order, its classes, and every kind of file that is not an image."""

import io
import logging
import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image
from prepared import fill, png_with_header, random_picture

from glow_tf.data import image_folder
from glow_tf.errors import InputError

PHOTOGRAPHS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "cifar10_jpeg.tar.xz"


def test_every_lossless_format_gives_the_exact_pixels(tmp_path):
    picture = random_picture()
    for extension in ("png", "bmp", "tiff", "TIF"):
        picture.save(tmp_path / f"a.{extension}")
    picture.save(tmp_path / "a.webp", lossless=True)
    read = image_folder.read_folder(tmp_path)
    assert read.paths == ("a.TIF", "a.bmp", "a.png", "a.tiff", "a.webp")
    assert read.images.dtype == np.uint8
    np.testing.assert_array_equal(read.images, np.broadcast_to(np.asarray(picture), (5, 6, 5, 3)))


def test_pictures_of_several_sizes_need_an_image_size(tmp_path):
    random_picture(6, 5).save(tmp_path / "a.png")
    random_picture(6, 7).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="6x5.*6x7"):
        image_folder.read_folder(tmp_path)
    assert image_folder.read_folder(tmp_path, image_size=(4, 4)).images.shape == (2, 4, 4, 3)


def test_large_pictures_need_an_image_size(tmp_path):
    Image.new("L", (2, 1025)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="'a.png' in .* is 1025x2; choose a size of up to 1024 with --img_size"):
        image_folder.read_folder(tmp_path)


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


def test_files_beyond_a_limit_do_not_count_as_bad(tmp_path):
    for number in range(4):
        Image.new("L", (4, 4)).save(tmp_path / f"{number}.png")
        os.mkfifo(tmp_path / f"pipe{number}.png")
    assert image_folder.read_folder(tmp_path, limit=2).paths == ("0.png", "1.png")
    with pytest.raises(InputError, match="4 of 8 files"):
        image_folder.read_folder(tmp_path)


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
        read = image_folder.read_folder(tmp_path, max_bad=0.9)
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
    image_folder.read_folder(tmp_path, max_bad=1.0)
    assert len(caplog.records) == 21
    assert "10 more" in caplog.records[-1].getMessage()


def test_a_folder_of_nothing_but_broken_files_is_an_error_at_any_tolerance(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 1"):
        image_folder.read_folder(tmp_path, max_bad=1.0)


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
    read = image_folder.read_folder(tmp_path, max_bad=0.5)
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
    read = image_folder.read_folder(inside, max_bad=0.9)
    assert len(read.images) == 4
    assert len(caplog.records) == 5
    (tmp_path / "alias").symlink_to(inside)  # the folder that was asked for may itself be a link
    assert len(image_folder.read_folder(tmp_path / "alias", max_bad=0.9).images) == 4


def test_an_array_that_memory_cannot_hold_is_refused_before_it_is_filled(tmp_path, monkeypatch):
    fill(tmp_path, 3)
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    with pytest.raises(InputError, match="GiB.*lower the image size"):
        image_folder.read_folder(tmp_path)


def test_impossible_arguments():
    with pytest.raises(InputError, match="channels is 5"):
        image_folder.read_folder(".", channels=5)


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
    read = image_folder.read_folder(tmp_path, image_size=(8, 8), max_bad=1.0)
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
