"""Prints the bits/dim of trained weights on a test split.

    python3 evaluate.py --weights runs/digits/checkpoints/weights.h5
    python3 evaluate.py --weights weights.h5 --dataset cifar10
"""

from absl import flags

import common_definitions as defaults
from glow_tf import command_line, pretrained
from glow_tf.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("weights", None, "A weights.h5; None: the newest under runs/, else the bundled digits.")
flags.DEFINE_string("dataset", None, "A data set or a folder of images; None: what the weights were trained on.")
flags.DEFINE_string("data_dir", None, "Where prepared TFDS data sets lie.")
flags.DEFINE_bool("download", True, "Download a TFDS data set that is not prepared yet.")
flags.DEFINE_integer("batch_size", 64, "Images scored at once.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the dequantisation noise.", lower_bound=0, upper_bound=2**31 - 1)


def main(arguments):
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}; a weights file is named by --weights")
    path, _ = pretrained.find(FLAGS.weights, defaults.RUNS)
    command_line.import_tensorflow()
    from glow_tf import data, evaluation
    from glow_tf.glow import Glow

    glow = Glow.load(path)
    name = FLAGS.dataset or glow.metadata.get("dataset")
    if name is None:
        raise InputError(f"{path} does not say what it was trained on; name the data with --dataset")
    height, width, channels = glow.config.image_shape
    images = data.load(
        name, data_dir=FLAGS.data_dir, image_size=(height, width), channels=channels, download=FLAGS.download
    )
    bits, error, count = evaluation.bits_per_dim(glow, images.test, FLAGS.batch_size, FLAGS.seed)
    print(f"{bits:.4f} bits/dim, standard error {error:.4f}, on the {count} test images of {images.name} ({path})")


if __name__ == "__main__":
    command_line.run(main, __doc__)
