"""Steps whose loss or gradient is not finite: counted, and after ten in a row a roll-back at half the learning rate."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import tensorflow as tf

from glow_tf.errors import TrainingFailure
from glow_tf.inputs import Array, Labels, class_labels
from glow_tf.training import diagnostics
from glow_tf.training.checkpoint import Checkpointer
from glow_tf.training.state import RunRecord

if TYPE_CHECKING:
    from glow_tf.training.trainer import Trainer

# This many skipped steps in a row mean that waiting does not help.
MAX_SKIPPED = 10


@dataclasses.dataclass(eq=False)
class Recovery:
    """Watches the steps of a run; `say` prints a line."""

    trainer: "Trainer"
    checkpointer: Checkpointer
    record: RunRecord
    say: Callable[[str], None]

    def after_step(self, is_finite: bool, images: Array, labels: Labels | None) -> bool:
        """To be called after each step, with its batch; returns whether the state was rolled back.

        Raises TrainingFailure if gradients are still not finite after the learning rate was halved.
        """
        record = self.record
        if is_finite:
            record.skipped_in_a_row = 0
            return False
        record.skipped += 1
        record.skipped_in_a_row += 1
        step = self.trainer.step_count
        self.say(f"step {step}: the loss or its gradient is not finite; the step was skipped ({record.skipped} so far)")
        if record.skipped_in_a_row < MAX_SKIPPED:
            return False
        where = locate(self.trainer, images, labels)
        if record.rate_was_halved:
            raise TrainingFailure(
                f"{MAX_SKIPPED} steps up to step {step} had no finite gradient although the learning rate had been "
                f"halved; the first non-finite values are in {where}. Start over (--fresh) with a smaller "
                f"--learning_rate, a longer --warmup_epochs or --coupling additive"
            )
        self._roll_back(where)
        return True

    def _roll_back(self, where: str) -> None:
        restored = self.checkpointer.roll_back() or "the current weights"
        rate = self.trainer.optimizer.learning_rate
        rate.assign(rate / 2)
        self.record.rate_was_halved, self.record.skipped_in_a_row = True, 0
        self.say(
            f"{MAX_SKIPPED} steps in a row had no finite gradient, first in {where}; rolled back to {restored} and "
            f"halved the learning rate to {float(rate.numpy()):g}"
        )


def locate(trainer: "Trainer", images: Array, labels: Labels | None = None) -> str:
    """Where the last batch passed to `train_step` stops being finite: a level, step and layer, or a variable."""
    glow = trainer.glow
    images, labels = tf.convert_to_tensor(images), class_labels(labels, glow.config.num_classes)
    noise = trainer._noise(tf.constant(trainer.step_count - 1), images, 0)
    values, _ = glow.flow.dequantize(noise, images)
    layer = diagnostics.first_not_finite(glow, values, labels)
    if layer is not None:
        return layer
    _, gradients = trainer._share_of_loss_and_gradients(noise, images, labels)
    of_variable = dict(zip(map(id, glow.trainable_variables), gradients, strict=True))
    named = {name: of_variable.get(id(variable), 0.0) for name, variable in glow.named_variables().items()}
    broken = [name for name, gradient in named.items() if not bool(tf.reduce_all(tf.math.is_finite(gradient)))]
    # The gradient comes from the latents' side.
    return f"the gradient of {broken[-1]}" if broken else "no layer: the batch is finite when it is run again"
