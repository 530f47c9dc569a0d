"""Which images are held out, and what a change of the folder means for a run."""

import hashlib
import json
import re

import numpy as np
import pytest

from glow_tf.data import holdout
from glow_tf.data.holdout import describe_change, fingerprint, validation_mask


def held_out(names):
    return {name for name, is_test in zip(names, validation_mask(names), strict=True) if is_test}


def names_of(count):
    return [f"n{number % 7}/photo {number}.jpg" for number in range(count)]


def test_about_five_per_cent_are_held_out():
    assert 400 < len(held_out(names_of(10_000))) < 600


def test_the_name_alone_decides():
    names = names_of(1000)
    test = held_out(names)
    # A model that was trained with another version was never trained on these.
    assert test == {name for name in names if int(hashlib.sha256(name.encode()).hexdigest(), 16) < 0.05 * 2**256}
    assert held_out(names[::-1]) == test
    assert held_out(names_of(1500)) & set(names) == test
    assert held_out(names[:300]) == test & set(names[:300])


def test_at_least_one_image_and_never_all_are_held_out():
    for count in range(2, 40):
        assert 1 <= len(held_out(names_of(count))) < count
    assert len(held_out(sorted(held_out(names_of(1000)))[:2])) == 1


def test_an_added_image_never_makes_a_test_image_of_a_training_image(monkeypatch):
    for limit in (10_000, 5):
        monkeypatch.setattr(holdout, "MAX_HELD_OUT", limit)
        names = names_of(150)
        for count in range(3, 150):
            assert len(held_out(names[:count])) <= limit
            assert held_out(names[: count + 1]) <= held_out(names[:count]) | {names[count]}


def test_a_training_image_that_an_added_one_makes_a_test_image_ends_the_run():
    low = sorted(held_out(names_of(1000)))[:2]  # the names of both are below 0.05
    (test,) = held_out(low)
    (train,) = {*low} - {test}
    larger = [*low, "n0/photo 0.jpg"]
    assert held_out(larger) == {*low}
    change = describe_change(fingerprint(1, 1, [train], [test]), fingerprint(1, 2, larger[2:], low))
    assert change[0].startswith("1 image was trained on and would now be used for testing") and change[1]


@pytest.mark.parametrize(
    ("train", "test", "words", "is_fatal"),
    [
        ("abc", "xy", "", False),
        ("abcd", "xy", "1 image was added and 0 images were removed; there are now 6", False),
        ("abcde", "x", "2 images were added and 1 image was removed", False),
        ("abcx", "y", "0 images were added and 0 images were removed", False),
        ("bc", "xya", "1 image was trained on and would now be used for testing: .* 0 images were added", True),
        ("c", "abz", "2 images were trained on and would now be used for testing", True),
        ("cba", "xyz", "1 image was added and 0 images were removed; there are now 6", False),
        ("abcx", "xy", "1 image was added", False),  # train/x beside test/x
        ("abd", "xy", "1 image was added and 1 image was removed; there are now 5", False),
    ],
)
def test_changes_of_a_folder(train, test, words, is_fatal):
    old, new = (json.loads(json.dumps(fingerprint(len(a), len(b), a, b))) for a, b in (("abc", "xy"), (train, test)))
    message, refuses = describe_change(old, new)
    assert refuses == is_fatal
    assert re.search(words, message) if words else not message
    assert "\n" not in message


def described(old, new):
    """The change from {"train": {name: pixel}, "test": ...} to another."""
    fingerprints = [
        fingerprint(
            len(each["train"]), len(each["test"]), [*each["train"]], [*each["test"]],
            *(np.array([*each[split].values()], np.uint8) for split in ("train", "test")),
        )
        for each in (old, new)
    ]  # fmt: skip
    return describe_change(*json.loads(json.dumps(fingerprints)))


def test_images_are_also_compared_by_their_pixels():
    old = {"train": {"a": 1, "b": 2, "c": 3}, "test": {"x": 7}}
    assert described(old, old) == ("", False)
    renamed = described(old, {"train": {"A": 1, "b": 2, "c": 3}, "test": {"x": 7}})
    assert renamed == ("since the run began, 1 image was added and 1 image was removed; there are now 4", False)
    leaked = described(old, {"train": {"b": 2, "c": 3}, "test": {"x": 7, "A": 1}})
    assert leaked[0].startswith("1 image was trained on and would now be used for testing") and leaked[1]
    replaced = described(old, {"train": {"a": 1, "b": 9, "c": 3}, "test": {"x": 7}})
    assert "0 images were removed, and 1 image was replaced under the same name" in replaced[0] and not replaced[1]
    copied = described(old, {"train": {"a": 1, "b": 2, "c": 3}, "test": {"x": 7, "copy of a": 1}})
    assert copied == ("since the run began, 1 image was added and 0 images were removed; there are now 5", False)


def test_a_fingerprint_of_an_earlier_version_is_compared_by_names():
    old = {key: value for key, value in fingerprint(2, 1, "ab", "x").items() if "pixels" not in key}
    new = fingerprint(2, 1, "ab", "x", np.zeros([2, 3]), np.zeros([1, 3]))
    assert describe_change(old, new) == ("", False)


def test_a_data_set_without_names_is_compared_by_its_size():
    assert describe_change(fingerprint(10, 2), fingerprint(10, 2)) == ("", False)
    assert describe_change(fingerprint(10, 2), fingerprint(11, 2)) == (
        "the data set had 12 images when the run began and now has 13",
        True,
    )


def test_names_that_are_not_utf8_have_a_fingerprint():
    name = "photo \udcff.png"
    json.dumps(fingerprint(1, 1, [name], ["b"])).encode()
    assert validation_mask([name, "b"]).sum() == 1
