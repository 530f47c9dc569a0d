"""Files: which ones are opened, which ones are replaced, and how untrusted text is printed."""

import os
import stat

import numpy as np
import pytest

from glow_tf import _files
from glow_tf.errors import InputError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, \u732b", "plain text, \u732b"),
        ("a\nb\r\x1b[2J", r"a\nb\r\x1b[2J"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\udcff", r"\udcff"),
        (b"\xffx", r"\udcffx"),
        (10**5000, "<int>"),
        ("x" * 1000, "x" * 300 + "..."),
    ],
    ids=["plain", "escapes", "bidirectional", "surrogate", "bytes", "huge integer", "long"],
)
def test_printable(text, shown):
    assert _files.printable(text) == shown


def test_many_long_names_fit_a_message():
    text = _files.format_names(["\x1b" * 1000] * 1000)
    assert text.isprintable() and text.endswith("and 997 more") and len(text) < 1200


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_cells_are_not_formulas(text):
    assert _files.spreadsheet_safe(text) == "'" + text


def test_semicolons_which_separate_cells_in_some_countries_begin_no_formula():
    assert _files.spreadsheet_safe("a; =1") == r"a\x3b =1"
    assert _files.spreadsheet_safe("a;b-c.png") == "a;b-c.png"


@pytest.mark.parametrize("letter", ["x", "\u732b"])
def test_the_longest_names_are_written(tmp_path, letter):
    path = tmp_path / (letter * (255 // len(letter.encode())))
    _files.write_atomically(path, b"new")
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"new"


def test_content_is_durable_before_its_name(tmp_path, monkeypatch):
    """A file that survives a power cut is the old one or the whole new one."""
    calls = []
    fsync, replace = os.fsync, os.replace
    kind = lambda descriptor: "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(kind(descriptor)) or fsync(descriptor))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("rename") or replace(*paths))
    _files.write_atomically(tmp_path / "weights.h5", b"new")
    assert calls == ["file", "rename", "folder"]


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        _files.write_atomically(tmp_path / "missing" / "weights.h5", b"new")
    assert error.value.filename == str(tmp_path / "missing" / "weights.h5")


def written(path, header, data=b""):
    header = header.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)
    return path


HEADER = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}"

BAD_NPY = {
    "no literal": "__import__('os').system('touch owned')",
    "nested": "[" * 9000,
    "four terabytes": HEADER.format("'<f4'", "(1099511627776,)"),
    "overflow": HEADER.format("'<f4'", "(4294967296, 4294967296)"),
    "huge number": HEADER.format("'<f4'", "(0x" + "f" * 9000 + ",)"),
    "negative": HEADER.format("'<f4'", "(-1,)"),
    "object": HEADER.format("'|O'", "(1,)"),
    "text": HEADER.format("'<U1'", "(1,)"),
    "structure": HEADER.format("[('a', '<f4')]", "(1,)"),
    "missing data": HEADER.format("'<f4'", "(2,)"),
    "too much data": HEADER.format("'<f4'", "()"),
}


@pytest.mark.parametrize("kind", BAD_NPY)
def test_npy_headers_are_checked(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "a.npy", BAD_NPY[kind], bytes(4 if kind != "too much data" else 8))
    with pytest.raises(InputError, match=r"is not a NumPy file|is damaged: its header says") as error:
        _files.load_npy(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000
    assert not os.path.exists("owned")


@pytest.mark.parametrize("array", [np.float32([[1, 2, 3], [4, 5, 6]]), np.int64(3), np.zeros([0, 3], ">f8")])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_round_trip(tmp_path, array, order):
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    loaded = _files.load_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(loaded, array)
    assert loaded.dtype == array.dtype


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_regular_files_are_opened_or_replaced(tmp_path, make):
    path = tmp_path / "a"
    make(path)
    before = os.lstat(path)
    for read in (_files.check_file, _files.read_text, _files.load_npy):
        with pytest.raises(InputError, match="a is a (pipe|folder|device), not a "):
            read(path)
    with pytest.raises(OSError, match="not a regular file"):
        _files.write_atomically(path, b"new")
    assert os.lstat(path) == before
    assert os.listdir(tmp_path) == ["a"]


def test_text_is_bounded_and_utf_8(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbftext")
    assert _files.read_text(tmp_path / "a") == "text"
    with pytest.raises(InputError, match="a has 7 bytes; a table has at most 5"):
        _files.read_text(tmp_path / "a", "table", limit=5)
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(InputError, match="it is not UTF-8 text"):
        _files.read_text(tmp_path / "a")
    with pytest.raises(InputError, match="is not a file name"):
        _files.check_file("a\0b")
