import pytest

from glow_tf.cli import attribute
from glow_tf.errors import InputError


def test_attribute_table(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("image, Smile,Hat\na.png, 1,x\nb/b.png,-1,1\nc.png,Yes,0\nd.png\n")
    positive, negative = attribute.read_table(table, "Smile")
    assert positive == [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
    assert negative == [str(tmp_path / "b/b.png")]
    for content, column, message in [
        ("", "Smile", "has no column"),
        ("image,Hat\na,1\n", "Smile", "it has Hat"),
        ("image,Smile\na,1\n", "Smile", "0 or -1"),
        ("image,Smile\na,0\n", "Smile", "no image with 1"),
    ]:
        table.write_text(content)
        with pytest.raises(InputError, match=message):
            attribute.read_table(table, column)


def test_a_class_is_named_or_numbered():
    assert attribute.index_of_class("cat", ("dog", "cat"), "--label") == 1
    assert attribute.index_of_class("0", ("dog", "cat"), "--label") == 0
    for name, names, message in [
        ("horse", ("dog", "cat"), "--label is 'horse'; the classes are dog, cat, or an index from 0 to 1"),
        ("2", ("dog", "cat"), "an index from 0 to 1"),
        ("2", (), "--label is '2', but the images have no classes"),
    ]:
        with pytest.raises(InputError, match=message):
            attribute.index_of_class(name, names, "--label")
