"""What a run begins with, recorded once and compared when the run is resumed: model, options and images."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging

from glow_tf._files import printable
from glow_tf.config import GlowConfig, TrainConfig
from glow_tf.data.holdout import codes_in, describe_change
from glow_tf.errors import InputError
from glow_tf.training.run_directory import RunDirectory


def identifier(settings: Mapping[str, Any], weights: Iterable[bytes]) -> str:
    """The identifier of a run: a digest of its settings, images and initial weights.

    It is not random, so that equal runs write equal files. Runs with the same identifier make the same steps, and
    their states and weights may be mixed without harm.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for value in weights:
        digest.update(value)
    return digest.hexdigest()[:16]


def record(run: RunDirectory, run_id: str, settings: Mapping[str, Any]) -> None:
    """Records what a new run begins with: JSON values, with the data set's fingerprint as "images"."""
    run.write_json(run.settings, {"run_id": run_id, **settings})


def check(run: RunDirectory, settings: Mapping[str, Any], batch_size: int) -> str:
    """Compares the settings with those that the run began with, warns if images were added, and returns the run's id.

    A setting that the run did not record counts as its default, and class names and initial weights that it did not
    record are not compared. The id is empty for runs of earlier versions.

    Raises:
        InputError: as `compare`, or if the images changed in a way that does not allow resuming.
    """
    before = compare(run, settings)
    if "images" in before:
        _check_images(run, before, settings["images"], batch_size)
    return str(before.get("run_id", ""))


def compare(run: RunDirectory, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Compares some or all settings, except the images, with those that the run recorded, and returns the latter.

    Raises:
        InputError: if settings differ; the message names each and both values.
    """
    before = run.read_json(run.settings)
    new = _flat(settings)
    unrecorded = {name: new.get(name) for name in ("class_names", "weights")}
    old = unrecorded | _defaults() | _flat(before)
    differing = [name for name in sorted(new) if _without_slash(old.get(name)) != _without_slash(new[name])]
    if differing:
        shown = "; ".join(
            f"{printable(name)} was {printable(repr(old.get(name)))}, now {printable(repr(new[name]))}"
            for name in differing
        )
        raise InputError(
            f"{run.path} holds a run with other settings: {shown}; name another --run_dir, or --fresh to archive this "
            f"run and start over"
        )
    return before


def _check_images(run: RunDirectory, before: dict[str, Any], now: Mapping[str, Any], batch_size: int) -> None:
    old = before["images"]
    try:
        change, is_refused = describe_change(old, now)
        num_train_before = old["num_images"] - old["num_test_images"]
        # All images that were ever trained on, so that the next change is compared with them, too.
        images = dict(now)
        for key in ("train_codes", "train_pixels"):
            images[key] = "".join(sorted(codes_in(old.get(key, "")) | codes_in(now.get(key, ""))))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{run.settings} is damaged: its images are not a fingerprint of a data set") from None
    if not change:
        return
    num_train = now["num_images"] - now["num_test_images"]
    if num_train < batch_size <= num_train_before:
        change += f", and {num_train} training images are fewer than a batch of {batch_size}"
        is_refused = True
    if is_refused:
        raise InputError(
            f"{run.path} cannot be resumed on these images: {change}; restore the images, or start another run"
        )
    logging.warning("%s", change)
    run.write_json(run.settings, before | {"images": images})


def _without_slash(value: Any) -> Any:
    """A folder's name without the slash that a shell puts behind it; any other value as it is."""
    return value.rstrip("/") if isinstance(value, str) else value


def _defaults() -> dict[str, Any]:
    fields = dataclasses.fields(GlowConfig)
    model = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return _flat({"model": model, **TrainConfig().fixed()})


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}, "images": ...} -> {"a.b": 1}; tuples become lists, as in a file.

    The shape of the images is split into their size and their channels, which are separate options.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {} if key == "images" else _flat(value, f"{prefix}{key}.")
        elif key == "image_shape" and isinstance(value, (list, tuple)) and len(value) == 3:
            flat |= {f"{prefix}image_size": list(value[:2]), f"{prefix}channels": value[2]}
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
