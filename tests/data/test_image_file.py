"""One image file: every format and mode, and the limits that hostile files meet."""

import io
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from prepared import png_of, png_with_header, random_picture

from glow_tf.data import image_file
from glow_tf.data.resize import crop_and_resize

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def decode(path, channels=3, image_size=None, notes=None):
    return image_file.decode(path, image_size=image_size, channels=channels, notes=notes)


# What is read


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


def test_transparent_pixels_are_composited_over_white(tmp_path):
    picture = np.zeros((1, 3, 4), np.uint8)
    picture[..., 0] = 200
    picture[0, :, 3] = 0, 128, 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    notes = set()
    green = decode(tmp_path / "a.png", notes=notes)[0, :, 1]
    assert np.abs(green.astype(int) - [255, 127, 0]).max() <= 1 and (green[0], green[2]) == (255, 0)
    assert notes == {image_file.TRANSPARENT}


def test_grey_with_alpha_is_composited_or_kept(tmp_path):
    picture = np.array([[[90, 0], [90, 255]]], np.uint8)
    Image.fromarray(picture, "LA").save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", channels=1).tolist() == [[[255], [90]]]
    assert decode(tmp_path / "a.png").tolist() == [[[255] * 3, [90] * 3]]
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
    assert decode(tmp_path / "transparent.png").tolist() == [[[255] * 3, list(BLUE)]]


def test_one_bit(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    assert decode(tmp_path / "a.png").tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_the_high_eight_of_sixteen_bits_are_read(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    Image.fromarray(np.array([[0, 255, 256, 0x1234, 65535]], np.uint16)).save(path)
    assert Image.open(path).mode.startswith("I")
    assert decode(path, channels=1)[0, :, 0].tolist() == [0, 0, 1, 0x12, 255]


def test_a_transparent_grey_of_sixteen_bits_is_composited_or_kept(tmp_path):
    rows = b"\0" + struct.pack(">3H", 0x1234, 0x1235, 0)
    header, key = struct.pack(">IIBBBBB", 3, 1, 16, 0, 0, 0, 0), struct.pack(">H", 0x1234)
    chunks = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(png_of(*chunks))
    notes = set()
    assert decode(tmp_path / "a.png", channels=1, notes=notes)[0, :, 0].tolist() == [255, 0x12, 0]
    assert image_file.TRANSPARENT in notes
    assert decode(tmp_path / "a.png", channels=2)[0].tolist() == [[0x12, 0], [0x12, 255], [0, 255]]


def tiff_of(values, photometric, planes=False, deflate=False):
    """A TIFF of uint8 or uint16 [H, W, C], in one strip or with a strip for the plane of each channel."""
    height, width, channels = values.shape
    strips = [part.tobytes() for part in (np.moveaxis(values, -1, 0) if planes else [values])]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    tags = {256: [width], 257: [height], 258: [8 * values.itemsize] * channels, 259: [8 if deflate else 1]}
    tags |= {262: [photometric], 273: [0] * len(strips), 277: [channels], 279: [*map(len, strips)]}
    tags |= {284: [2 if planes else 1]} | ({338: [2]} if channels in (2, 4) else {})
    end = 8 + 2 + 12 * len(tags) + 4
    start = end + sum(4 * len(numbers) for numbers in tags.values() if len(numbers) > 1)
    tags[273] = [start + sum(map(len, strips[:number])) for number in range(len(strips))]
    table, arrays = struct.pack("<2sHIH", b"II", 42, 8, len(tags)), b""
    for tag, numbers in tags.items():
        if len(numbers) == 1:
            table += struct.pack("<HHII", tag, 4, 1, numbers[0])
        else:
            table += struct.pack("<HHII", tag, 4, len(numbers), end + len(arrays))
            arrays += struct.pack(f"<{len(numbers)}I", *numbers)
    return table + bytes(4) + arrays + b"".join(strips)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white_is_no_negative(tmp_path, dtype):
    values = np.array([[[0], [20], [255]]], dtype) * (np.iinfo(dtype).max // 255)
    (tmp_path / "a.tif").write_bytes(tiff_of(values, photometric=0))
    notes = set()
    assert decode(tmp_path / "a.tif", channels=1, notes=notes).tolist() == [[[255], [235], [0]]]
    assert not notes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_separate_planes_of_a_tiff_are_read_or_refused(tmp_path, rng, dtype, deflate, channels):
    values = rng.integers(0, np.iinfo(dtype).max, (5, 3, channels)).astype(dtype)
    for planes in (False, True):
        content = tiff_of(values, 2 if channels > 2 else 1, planes, deflate)
        (tmp_path / f"{planes}.tif").write_bytes(content)
        try:
            image = decode(tmp_path / f"{planes}.tif", channels)
        except Exception:
            assert channels == 2 or (planes and dtype == np.uint16 and not deflate)
            continue
        np.testing.assert_array_equal(image, values if dtype == np.uint8 else values >> 8)


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = decode(tmp_path / "a.jpg")[8, 8]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("extension", ["gif", "webp", "tiff"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, extension):
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
        image_file.to_mode(picture, 3)


@pytest.mark.parametrize(("values", "is_narrow"), [([0, 4000], True), ([0, 5000], False), ([0, 0], False)])
def test_sixteen_bits_that_use_little_of_their_range_are_noted(tmp_path, values, is_narrow):
    notes = set()
    Image.fromarray(np.array([values], np.uint16)).save(tmp_path / "a.png")
    decode(tmp_path / "a.png", notes=notes)
    Image.fromarray(np.array([values], np.int32)).save(tmp_path / "b.tiff")  # 32 bits are read as 16
    assert decode(tmp_path / "b.tiff", notes=notes).tolist() == [[[value >> 8] * 3 for value in values]]
    assert notes == ({image_file.NARROW} if is_narrow else set())


@pytest.mark.parametrize(("value", "is_narrow"), [(5, True), (200, False)])
def test_colours_of_sixteen_bits_are_noted_too(tmp_path, value, is_narrow):
    rows = b"\0" + struct.pack(">3H", value << 8, 0, 0) * 2
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png_of((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    notes = set()
    assert decode(tmp_path / "a.png", notes=notes)[0, 0].tolist() == [value, 0, 0]
    assert notes == ({image_file.NARROW} if is_narrow else set())


# Sizes


@pytest.mark.parametrize("width, height", [(1, 1), (1, 10_000), (10_000, 1), (7, 3)])
@pytest.mark.parametrize("image_size", [(1, 1), (4, 4), (3, 8)])
def test_odd_sizes_become_the_requested_one(tmp_path, width, height, image_size):
    Image.new("RGB", (width, height), (1, 2, 3)).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png", image_size=image_size)
    np.testing.assert_array_equal(image, np.broadcast_to([1, 2, 3], (*image_size, 3)))


def test_a_large_jpeg_is_decoded_smaller_but_nearly_the_same(tmp_path):
    y, x = np.mgrid[:400, :600]
    values = np.stack([x * 255 // 600, y * 255 // 400, (x + y) * 255 // 1000], -1).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.jpg", quality=95)
    exact = np.asarray(crop_and_resize(Image.fromarray(values), (32, 32)))
    image = decode(tmp_path / "a.jpg", image_size=(32, 32))
    assert np.abs(image.astype(int) - exact).max() <= 4


# Limits


def refusal(path, **kwargs):
    """The message and the processor time of a refused file."""
    start = time.process_time()
    with pytest.raises((ValueError, Image.DecompressionBombError)) as caught:
        decode(path, **kwargs)
    assert time.process_time() - start < 2
    return str(caught.value)


@pytest.mark.parametrize("side", [9_000, 20_000, 60_000])
def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch, side):
    (tmp_path / "a.png").write_bytes(png_with_header(side, side))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises((ValueError, Image.DecompressionBombError), match=f"{side}x{side}|{side**2}"):
        decode(tmp_path / "a.png")


def test_an_animation_that_holds_two_frames_has_half_of_the_pixels(tmp_path, monkeypatch):
    random_picture(30, 40).save(tmp_path / "a.webp", save_all=True, append_images=[random_picture(30, 40, seed=1)])
    random_picture(30, 40).save(tmp_path / "b.webp")
    monkeypatch.setattr(image_file, "MAX_PIXELS", 2000)
    assert "40x30 pixels of an animation are more than the limit of 2000" in refusal(tmp_path / "a.webp")
    assert decode(tmp_path / "b.webp").shape == (30, 40, 3)


def test_a_progressive_jpeg_of_many_scans_is_refused(tmp_path):
    stream = io.BytesIO()
    random_picture(64, 64).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    scan = content.rindex(b"\xff\xda")  # the last scan, repeated
    (tmp_path / "a.jpg").write_bytes(content[:scan] + content[scan:-2] * 3000 + content[-2:])
    assert "more than 100 scans" in refusal(tmp_path / "a.jpg", image_size=(8, 8))
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\xfe\0\2" * 20_000 + content[2:] + b"\xff\xda" * 200)
    assert "more than 10000 segments" in refusal(tmp_path / "a.jpg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 602) + b"\xff\xda\0\0" * 150
    (tmp_path / "a.jpg").write_bytes(content[:2] + thumbnail + content[2:])  # scans inside a segment do not count
    assert decode(tmp_path / "a.jpg").shape == (64, 64, 3)


def test_a_jpeg_that_further_images_follow_is_bounded_like_others(tmp_path):
    pictures = [random_picture(64, 64, seed=seed) for seed in (0, 1)]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:], progressive=True)
    content = (tmp_path / "a.jpg").read_bytes()
    end = content.index(b"\xff\xd9")
    scan = content.rindex(b"\xff\xda", 0, end)
    assert decode(tmp_path / "a.jpg").shape == (64, 64, 3)
    (tmp_path / "a.jpg").write_bytes(content[:scan] + content[scan:end] * 200 + content[end:])
    assert "more than 100 scans" in refusal(tmp_path / "a.jpg", image_size=(8, 8))


def overlapping_tags(count, size, first=1000, table_tag=None):
    """TIFF data of `count` tags that all claim the same `size` bytes, in a table of its own if it has a tag."""
    entries = [struct.pack("<HHII", first + number, 7, size, 8) for number in range(count)]
    table = struct.pack("<H", count) + b"".join(entries) + bytes(4)
    if table_tag:
        table = struct.pack("<HHHIII", 1, table_tag, 4, 1, 26, 0) + table
    return b"II*\0\x08\0\0\0" + table


@pytest.mark.parametrize("table_tag", [None, 0x8769])
def test_tags_that_share_their_bytes_are_refused(tmp_path, table_tag):
    # Pillow before version 13 copies the bytes for each tag: 360 MB from 64 KB, and 50 GB from 800 KB.
    small, large = (overlapping_tags(count, 11 * count, table_tag=table_tag) for count in (5000, 60_000))
    stream = io.BytesIO()
    random_picture(16, 16).save(stream, "JPEG")
    segment = b"Exif\0\0" + small
    (tmp_path / "a.jpg").write_bytes(
        b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + stream.getvalue()[2:]
    )
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    pixels = (b"IDAT", zlib.compress(bytes(200)))
    (tmp_path / "b.png").write_bytes(png_of((b"IHDR", header), (b"eXIf", large), pixels, (b"IEND", b"")))
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n60000\n" + small.hex().encode())
    (tmp_path / "c.png").write_bytes(png_of((b"IHDR", header), (b"zTXt", text), pixels, (b"IEND", b"")))
    (tmp_path / "d.tif").write_bytes(large)
    for name, late in (("e.png", (b"eXIf", large)), ("f.png", (b"zTXt", text))):  # behind the pixels
        (tmp_path / name).write_bytes(png_of((b"IHDR", header), pixels, late, (b"IEND", b"")))
    for name in ("a.jpg", "b.png", "c.png", "d.tif", "e.png", "f.png"):
        assert "tags that overlap" in refusal(tmp_path / name)


def test_exif_data_in_many_segments_is_bounded(tmp_path):
    stream = io.BytesIO()
    random_picture(16, 16).save(stream, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 60_008) + b"Exif\0\0" + bytes(60_000)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + 20 * segment + stream.getvalue()[2:])
    assert "bytes of EXIF data are more than the limit" in refusal(tmp_path / "a.jpg")


def test_exif_data_that_is_cut_short_is_no_reason_to_refuse(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x927C] = 6, "maker's note"
    random_picture(16, 8).save(tmp_path / "a.jpg", exif=exif.tobytes()[:-4])
    assert decode(tmp_path / "a.jpg").shape == (8, 16, 3)


@pytest.mark.parametrize("start", ["<2sHI", ">2sHI", "<2sHHHQ", ">2sHHHQ"])
def test_a_tiff_of_a_million_strips_is_refused(tmp_path, start):
    order, is_big = start[0], "Q" in start
    magic = {"<": b"II", ">": b"MM"}[order]
    head = struct.pack(start, magic, 43, 8, 0, 16) if is_big else struct.pack(start, magic, 42, 8)
    tags = [(256, 4, 1, 1), (257, 4, 1, 1_000_000), (273, 4, 1_000_000, 200), (279, 4, 1_000_000, 200)]
    table = struct.pack(order + ("Q" if is_big else "H"), len(tags))
    table += b"".join(struct.pack(order + ("HHQQ" if is_big else "HHII"), *tag) for tag in tags)
    (tmp_path / "a.tif").write_bytes(head + table + bytes(4_000_000))
    assert "1000000 values of tag 273" in refusal(tmp_path / "a.tif")


def test_a_tiff_of_some_strips_is_read(tmp_path):
    random_picture(300, 10).save(tmp_path / "a.tif", tiffinfo={278: 1})
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), np.asarray(random_picture(300, 10)))


def test_a_large_sparse_file_is_refused_unread(tmp_path):
    with open(tmp_path / "a.webp", "wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
        file.truncate(6 << 30)
    assert "6442450944 bytes are more than the limit" in refusal(tmp_path / "a.webp")


def test_decoding_ends_when_its_time_is_up(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, "MAX_SECONDS", 0.1)
    header = struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *[(b"abCd", b"")] * 100_000, (b"IDAT", zlib.compress(bytes(310))), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(png_of(*chunks))
    assert "more than 0.1 seconds" in refusal(tmp_path / "a.png")


def test_all_threads_together_decode_a_bounded_number_of_pixels(tmp_path, monkeypatch):
    Image.new("RGBA", (100, 60), (0, 0, 0, 0)).save(tmp_path / "a.png")
    monkeypatch.setattr(image_file, "_budget", image_file._Budget(13_000))
    active, most, lock = 0, 0, threading.Lock()
    convert = image_file.to_mode

    def watched(*arguments):
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.01)
        try:
            return convert(*arguments)
        finally:
            with lock:
                active -= 1

    monkeypatch.setattr(image_file, "to_mode", watched)
    threads = [threading.Thread(target=decode, args=[tmp_path / "a.png"]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


def test_a_file_that_is_not_regular_is_refused_at_once():
    assert refusal("/dev/zero") == "not a regular file"
