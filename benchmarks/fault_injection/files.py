"""Damages the files that the package reads."""

import hashlib
import json
import random
import shutil

import damage
import hostile_h5
import numpy as np
import tensorflow as tf
from prepared import pictures, prepare

from fault_injection.children import Reading, Row, silence
from glow_tf import weights
from glow_tf.config import GlowConfig, TrainConfig
from glow_tf.data import holdout, image_data
from glow_tf.glow import Glow
from glow_tf.importers import openai
from glow_tf.training import settings
from glow_tf.training.checkpoint import Checkpointer
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.state import RunRecord
from glow_tf.training.trainer import Trainer

SMALL = {"image_shape": (8, 8, 3), "num_levels": 2, "num_steps": 2, "width": 8}


def mutate_weights(folder, count, seed):
    """Mutates weights files; half of the mutants keep their digest, which exposes them, the others get a valid one."""
    path = folder / "mutant.h5"
    hostile_h5.valid(path)
    original = path.read_bytes()
    reading = Reading()
    wrong = 0
    for number in range(count):
        changed = damage.mutant(original, seed * count + number)
        is_resealed = number % 2 == 1
        path.write_bytes(hostile_h5.reseal(changed) if is_resealed else changed)
        found = reading.read(path, lambda p: read_expected(p))
        if found is not None and not is_resealed:
            wrong += any(not np.array_equal(found[name], array) for name, array in hostile_h5.ARRAYS.items())
    return [
        *reading.rows("mutated weights files", count),
        Row("mutants loaded as different weights", count - count // 2, str(wrong), wrong == 0),
    ]


def mutate_indices(folder, count, seed):
    """Mutates the index of an OpenAI checkpoint; unchecked, it would make TensorFlow abort the process."""
    prefix = folder / "openai"
    openai.write(Glow(GlowConfig(**SMALL)), prefix)
    index = prefix.with_name("openai.index")
    original, reading = index.read_bytes(), Reading()
    for number in range(count):
        index.write_bytes(damage.mutant(original, seed * count + number))
        reading.read(prefix, lambda path: openai.read(path, 8, 8))
    return reading.rows("mutated checkpoint indices", count)


def read_hostile(folder, count):
    reading = Reading()
    own = hostile_h5.write_all(folder / "own", count)
    foreign = hostile_h5.write_all(folder / "foreign", count, hostile_h5.FOREIGN)
    accepted = [name for name, path in own.items() if reading.read(path, read_expected) is not None]
    accepted += [name for name, path in foreign.items() if reading.read(path, weights.read_foreign) is not None]
    total = len(own) + len(foreign)
    return [
        *reading.rows("hostile files", total),
        Row("hostile files accepted", total, ", ".join(accepted) or "0", not accepted),
    ]


def read_expected(path):
    with weights.open_weights(path) as file:
        return file.read(hostile_h5.EXPECTED)


# --------------------------------------------------------------------------------------------- states of a run


def mutate_states(folder, count, seed):
    """Damages the newest of two states, one time in four both; half of them get checksums that match."""
    silence(folder / "log")
    trainer, whole, damaged = Trainer(Glow(GlowConfig(**SMALL)), batch_size=4), folder / "whole", folder / "damaged"
    trained = [*trainer.glow.named_variables().values()]
    saving = Checkpointer(trainer.state, _record(), whole)
    for step in (1, 2):
        _set_all(trained, step)
        trainer.state.step_count = step
        saving.save()
    reading, wrong, lost = Reading(), 0, 0
    for number in range(count):
        chance = random.Random(seed * count + number)
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole, damaged)
        steps = (1, 2) if number % 4 == 3 else (2,)
        for step in steps:
            _damage_state(damaged, step, chance, is_resealed=number % 2 == 1)
        _set_all(trained, 0)
        trainer.state.step_count = 0
        found = reading.read(damaged, lambda path: Checkpointer(trainer.state, _record(), path).restore())
        if found is None:
            lost += len(steps) == 1
        else:
            step = trainer.state.step_count
            wrong += step not in (1, 2) or any((variable.numpy() != step).any() for variable in trained)
    return [
        *reading.rows("damaged states", count),
        Row("damaged states restored as different values", count, str(wrong), wrong == 0),
        Row("undamaged older states not restored", count - count // 4, str(lost), lost == 0),
    ]


def _record():
    record = RunRecord()
    record.run_id = "run"
    return record


def _set_all(variables, value):
    for variable in variables:
        variable.assign(tf.fill(variable.shape, tf.cast(value, variable.dtype)))


def _damage_state(folder, step, chance, is_resealed):
    files = sorted(folder.glob(f"ckpt-{step}.*"))
    victim = chance.choice(files)
    if chance.random() < 0.2:
        victim.unlink()
    else:
        victim.write_bytes(damage.mutant(victim.read_bytes(), chance.randrange(2**40)))
    if is_resealed:
        files = [file for file in files if file.suffix != ".sha256" and file.exists()]
        lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
        (folder / f"ckpt-{step}.sha256").write_text("".join(lines))


# -------------------------------------------------------------------------------------------------- JSON files


def mutate_settings(folder, count, seed):
    """Damages settings.json of a run; a recorded setting that differs must be refused."""
    silence(folder / "log")
    run = RunDirectory(folder / "run")
    run.create()
    names = [f"{number}.png" for number in range(40)]
    images = holdout.fingerprint(36, 4, names[:36], names[36:])
    recorded = {
        "dataset": "pictures",
        "model": GlowConfig(**SMALL).to_dict(),
        **TrainConfig().fixed(),
        "images": images,
    }
    settings.record(run, "0" * 16, recorded)
    original, reading, wrong = run.settings.read_bytes(), Reading(), 0
    before = settings._flat(json.loads(original))
    for number in range(count):
        run.settings.write_bytes(damage.mutated_json(original, seed * count + number))
        if reading.read(run, lambda run: settings.check(run, recorded, batch_size=4)) is not None:
            now = settings._flat(json.loads(run.settings.read_bytes()))
            keys = [key for key in before if key in now and key != "run_id" and not key.startswith("images.")]
            wrong += any(now[key] != before[key] for key in keys)
    return [
        *reading.rows("damaged settings.json", count),
        Row("other settings accepted", count, str(wrong), wrong == 0),
    ]


def mutate_tfds(folder, count, seed):
    """Damages the two JSON files of a prepared TFDS data set."""
    silence(folder / "log")
    prepare(folder, "tiny", "1.0.0", {"train": pictures(8, (8, 8, 3)), "test": pictures(4, (8, 8, 3))})
    paths = [folder / "tiny" / "1.0.0" / name for name in ("features.json", "dataset_info.json")]
    originals, reading = [path.read_bytes() for path in paths], Reading()
    for number in range(count):
        chosen = number % 2
        paths[1 - chosen].write_bytes(originals[1 - chosen])
        paths[chosen].write_bytes(damage.mutated_json(originals[chosen], seed * count + number))
        reading.read("tiny", lambda name: image_data.load(name, data_dir=folder))
    return reading.rows("damaged features.json and dataset_info.json", count)
