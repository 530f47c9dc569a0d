"""Draws images from trained weights.

    python3 sample.py --temp 0.7                       the newest weights under runs/, else the bundled digits
    python3 sample.py --weights weights.h5 --n 100 --out samples.png
"""

from absl import flags

import common_definitions as defaults
from glow_tf import command_line, pretrained
from glow_tf.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("weights", None, "A weights.h5; None: the newest under runs/, else the bundled digits.")
flags.DEFINE_float("temp", defaults.TEMPERATURE, "Temperature: 0 gives the mode, 1 the model itself.")
flags.DEFINE_integer("n", defaults.NUM_SAMPLES, "How many images.", lower_bound=1, upper_bound=10_000)
flags.DEFINE_integer("seed", None, "Of the samples; None: a new one every time.", lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_string("out", "samples.png", "The PNG file to write.")


def main(arguments):
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}; a weights file is named by --weights")
    if not 0 <= FLAGS.temp <= 100:
        raise InputError(f"--temp is {FLAGS.temp}; it must be from 0 to 100, 0.7 is usual")
    path, why = pretrained.find(FLAGS.weights, defaults.RUNS)
    command_line.import_tensorflow()
    from glow_tf import pictures
    from glow_tf.glow import Glow

    glow = Glow.load(path)
    images = glow.sample(FLAGS.n, temperature=FLAGS.temp, seed=FLAGS.seed)
    pictures.save_png(FLAGS.out, pictures.grid(images))
    print(f"{FLAGS.n} images at temperature {FLAGS.temp:g} from {path} ({why}): {FLAGS.out}")


if __name__ == "__main__":
    command_line.run(main, __doc__)
