"""What a run began with: settings that must stay the same, images that may be added, and the run's identifier."""

import json
import os

import pytest

from glow_tf.config import TrainConfig
from glow_tf.data.holdout import fingerprint
from glow_tf.errors import InputError
from glow_tf.training import settings
from glow_tf.training.run_directory import RunDirectory

TRAIN, TEST = [f"{i}.png" for i in range(20)], ["a.png", "b.png"]


def recorded(train=TRAIN, test=TEST, **changes):
    images = fingerprint(len(train), len(test), train, test)
    return {"model": {"num_levels": 2}, "seed": 0, "images": images} | changes


# The last one is damaged only in codes that are merged with those of the present images.
DAMAGED_IMAGES = (
    '{"images": {"num_images": "x"}}',
    '{"images": null}',
    json.dumps({"images": fingerprint(20, 2, TRAIN, TEST) | {"train_codes": 5}}),
)


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    settings.record(run, "id", recorded())
    return run


def test_equal_settings_give_the_identifier(run):
    assert settings.check(run, recorded(), batch_size=8) == "id"


def test_differences_are_named(run):
    message = "model.num_levels was 2, now 3; seed was 0, now 1; .*--fresh"
    with pytest.raises(InputError, match=message):
        settings.check(run, recorded(model={"num_levels": 3}, seed=1), batch_size=8)
    run.write_json(run.settings, {"model": {"image_shape": [8, 8, 3]}})
    with pytest.raises(InputError, match="other settings: model.channels was 3, now 1; name"):
        settings.compare(run, {"model": {"image_shape": (8, 8, 1)}})


@pytest.mark.parametrize(("before", "now"), [("photos", "photos/"), ("a/photos//", "a/photos")])
def test_a_slash_behind_a_folder_makes_no_difference(run, before, now):
    settings.record(run, "id", recorded(dataset=before))
    assert settings.check(run, recorded(dataset=now), batch_size=8) == "id"
    with pytest.raises(InputError, match=f"dataset was '{before}', now 'photo'"):
        settings.check(run, recorded(dataset="photo"), batch_size=8)


def test_a_setting_that_was_not_recorded_had_its_default(run):
    run.write_json(run.settings, {"seed": 0})
    assert settings.check(run, recorded(**TrainConfig().fixed(), model={"num_bits": 8}), batch_size=8) == ""
    with pytest.raises(InputError, match="beta_2 was 0.999, now 0.99"):
        settings.check(run, recorded(beta_2=0.99), batch_size=8)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\ufffd", "[" * 100_000, *DAMAGED_IMAGES])
def test_damaged_settings_are_one_line(run, text):
    run.settings.write_text(text)
    with pytest.raises(InputError) as error:
        settings.check(run, {"images": recorded()["images"]}, batch_size=8)
    assert str(error.value).count("\n") == 0 and len(str(error.value)) < 600


def test_settings_that_are_a_pipe_are_refused(run):
    run.settings.unlink(missing_ok=True)
    os.mkfifo(run.settings)
    with pytest.raises(InputError, match="is a pipe, not a JSON file"):
        settings.check(run, {}, batch_size=8)


def test_added_images_are_reported_once(run, caplog):
    more = [*TRAIN, "new.png"]
    settings.check(run, recorded(train=more), batch_size=8)
    assert "1 image was added and 0 images were removed; there are now 23" in caplog.text
    caplog.clear()
    settings.check(run, recorded(train=more), batch_size=8)
    assert caplog.text == ""


def test_test_images_that_were_trained_on_are_refused(run):
    with pytest.raises(InputError, match="cannot be resumed on these images: 1 image was trained on and would now be"):
        settings.check(run, recorded(train=TRAIN[1:], test=[*TEST, TRAIN[0]]), batch_size=8)


def test_images_added_on_the_way_count_as_trained_on(run):
    settings.check(run, recorded(train=[*TRAIN, "new.png"]), batch_size=8)
    with pytest.raises(InputError, match="1 image was trained on"):
        settings.check(run, recorded(test=[*TEST, "new.png"]), batch_size=8)


def test_fewer_than_a_batch_are_refused(run):
    with pytest.raises(InputError, match="7 training images are fewer than a batch of 8"):
        settings.check(run, recorded(train=TRAIN[:7]), batch_size=8)


def test_the_identifier_is_that_of_settings_images_and_weights():
    base = settings.identifier(recorded(), [b"weights"])
    assert base == settings.identifier(json.loads(json.dumps(recorded())), [b"weights"])
    others = [
        settings.identifier(recorded(seed=1), [b"weights"]),
        settings.identifier(recorded(train=TRAIN[1:]), [b"weights"]),
        settings.identifier(recorded(), [b"other weights"]),
    ]
    assert len({base, *others}) == 4


def test_classes_in_another_order_are_refused_and_unknown_ones_are_not(run):
    settings.check(run, recorded(class_names=["cat", "dog"]), batch_size=8)  # a run of an earlier version
    settings.record(run, "id", recorded(class_names=["cat", "dog"]))
    settings.check(run, recorded(class_names=["cat", "dog"]), batch_size=8)
    with pytest.raises(InputError, match=r"class_names was \['cat', 'dog'\], now \['bird', 'cat'\]"):
        settings.check(run, recorded(class_names=["bird", "cat"]), batch_size=8)
