"""Draws images from trained weights, and edits images through their latents.

    python3 sample.py --temp 0.7                            the newest weights under runs/, else the bundled digits
    python3 sample.py --label cat --n 16                    one class of a class-conditional model
    python3 sample.py --mode temperature                    the same noise at rising temperatures
    python3 sample.py --mode reconstruct --images test:0,5,17
    python3 sample.py --mode interpolate --images a.png --images b.png --gif
    python3 sample.py --mode attribute --positive smiling/ --negative serious/ --save_direction smile.npy
    python3 sample.py --mode attribute --dataset celeb_a --attribute Smiling --images me.png
    python3 sample.py --mode attribute --direction smile.npy --images me.png --gif
    python3 sample.py --mode levels --images test:3         which level decides what
    python3 sample.py --mode pca                            where the latents of the test images vary most

Each writes a PNG; docs/model.md says what the latents are.
"""

import math
import os

from absl import flags

from glow_tf import pretrained
from glow_tf._files import check_file
from glow_tf.cli import app, defaults
from glow_tf.data import registry
from glow_tf.errors import InputError

FLAGS = flags.FLAGS

MODES = ("samples", "temperature", "reconstruct", "interpolate", "attribute", "levels", "pca")

flags.DEFINE_enum("mode", "samples", MODES, "What to draw.")
flags.DEFINE_string("weights", None, "A weights.h5, or a run's folder; None: the newest run, else the bundled digits.")
flags.DEFINE_float("temp", defaults.TEMPERATURE, "Temperature: 0 gives the mode, 1 the model itself.")
flags.DEFINE_integer("n", None, "How many images, or pairs; None: as many as fit.", lower_bound=1, upper_bound=10_000)
flags.DEFINE_string("label", None, "The class, by name or index; None: all of them, a row each.")
flags.DEFINE_integer("seed", None, "Of the samples; None: a new one every time.", lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_string("out", None, "The PNG file to write; None: <mode>.png.")
flags.DEFINE_bool("gif", False, "Also write the columns as an animation, beside the PNG.")
flags.DEFINE_multi_string(
    "images", None, "A file, or test:0,5,17 of the test split; may be given again. None: the first of the split."
)
flags.DEFINE_string("dataset", None, "Of test:, class: and --attribute; None: what the weights were trained on.")
flags.DEFINE_string("data_dir", None, "Where prepared TFDS data sets lie.")
flags.DEFINE_bool("download", True, "Download a TFDS data set that is not prepared yet.")
flags.DEFINE_integer("steps", 9, "Columns of interpolate, attribute, levels and pca.", lower_bound=2, upper_bound=1000)
flags.DEFINE_bool("spherical", False, "interpolate: along a great circle instead of straight.")
flags.DEFINE_string("positive", None, "attribute: a folder of images that have it, or class:NAME of the data set.")
flags.DEFINE_string("negative", None, "attribute: the same for images that lack it.")
flags.DEFINE_string("csv", None, "attribute: a table whose first column names image files, instead of two folders.")
flags.DEFINE_string(
    "attribute", None, "attribute: the table's column of 1 and -1 or 0; without --csv a feature of the TFDS data set."
)
flags.DEFINE_string("direction", None, "attribute: a direction saved earlier.")
flags.DEFINE_string("save_direction", None, "attribute: a file to save the direction in.")
flags.DEFINE_float("strength", 1.0, "attribute: the strip goes from minus to plus this; pca: times 3 deviations.")
flags.DEFINE_integer("components", 4, "pca: how many.", lower_bound=2, upper_bound=1000)

TEMPERATURES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
COLUMNS = 8
MAX_ROWS = 32

# Images that stand for an attribute, or for the test split in pca.
MANY = 2000


def main(arguments):
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}; a weights file is named by --weights")
    if not 0 <= FLAGS.temp <= 100:
        raise InputError(f"--temp is {FLAGS.temp}; it must be from 0 to 100, 0.7 is usual")
    if not -1000 <= FLAGS.strength <= 1000:
        raise InputError(f"--strength is {FLAGS.strength}; it must be from -1000 to 1000, 1 is usual")
    if FLAGS.gif and (FLAGS.out or "").endswith(".gif"):
        raise InputError(f"--out is {FLAGS.out}; it names the PNG, the animation gets the same name with .gif")
    check_one_attribute()
    check_names()
    path, why = pretrained.find(FLAGS.weights, defaults.RUNS)
    app.import_tensorflow()
    from glow_tf.evaluation import visualization
    from glow_tf.glow import Glow

    glow = Glow.load(path)
    strips, names, said = DRAW[FLAGS.mode](glow)
    out = FLAGS.out or f"{FLAGS.mode}.png"
    columns = strips.shape[1]
    visualization.save_png(
        out, visualization.grid(strips.reshape(-1, *strips.shape[2:])[: said.get("count")], columns, names)
    )
    print(f"{said['what']} from {path} ({why}): {out}")
    if FLAGS.gif:
        moving = os.path.splitext(out)[0] + ".gif"
        visualization.save_gif(
            moving, [visualization.grid(strips[:, c], 1 if names else None, names) for c in range(columns)]
        )
        print(f"moving: {moving}")


def check_one_attribute():
    """InputError if flags say in several ways what the attribute is."""
    ways = {"--direction": ["direction"], "--positive": ["positive", "negative"], "--attribute": ["csv", "attribute"]}
    given = [way for way, names in ways.items() if any(FLAGS[name].value is not None for name in names)]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} each say what the attribute is; give one of them")


def check_names():
    """InputError for a file, folder or data set that a flag names and that is not there."""
    for file in (FLAGS.csv, FLAGS.direction, *(FLAGS.images or ())):
        if file is not None and not file.startswith("test:"):
            check_file(file)
    for folder in (FLAGS.positive, FLAGS.negative):
        if folder is not None and not folder.startswith("class:"):
            registry.check_folder(folder)
    if FLAGS.dataset is not None:
        registry.check_data_set(FLAGS.dataset, FLAGS.data_dir)


def draw_samples(glow):
    import numpy as np

    classes = glow.config.num_classes
    label = chosen_label(glow)
    if not classes or label is not None:
        count = FLAGS.n or defaults.NUM_SAMPLES
        labels = None if label is None else np.full(count, label)
        images = glow.sample(count, FLAGS.temp, FLAGS.seed, labels).numpy()
        columns = math.ceil(math.sqrt(count))
        missing = -count % columns
        images = np.concatenate([images, np.zeros([missing, *images.shape[1:]], np.uint8)])
        what = f"{count} images at temperature {FLAGS.temp:g}"
        return images.reshape(-1, columns, *images.shape[1:]), (), {"what": what, "count": count}
    rows = min(classes, MAX_ROWS)
    columns = math.ceil(FLAGS.n / rows) if FLAGS.n else COLUMNS
    labels = np.repeat(np.arange(rows), columns)
    images = glow.sample(len(labels), FLAGS.temp, FLAGS.seed, labels).numpy()
    strips = images.reshape(rows, columns, *images.shape[1:])
    what = f"{columns} images of each of {rows} classes at temperature {FLAGS.temp:g}"
    return strips, class_names(glow, range(rows)), {"what": what}


def draw_temperatures(glow):
    import numpy as np

    from glow_tf.evaluation import editing

    columns = FLAGS.n or COLUMNS
    label = chosen_label(glow)
    labels = None if label is None else np.full(columns, label)
    strips = editing.temperatures(glow, TEMPERATURES, columns, FLAGS.seed, labels)
    names = [f"{t:g}" for t in TEMPERATURES]
    # Time runs over the temperatures, so that in the animation the images change and not the noise.
    what = f"{columns} images at temperatures from {names[0]} to {names[-1]}"
    if FLAGS.gif:
        return np.swapaxes(strips, 0, 1), (), {"what": what}
    return strips, names, {"what": what}


def draw_reconstructions(glow):
    from glow_tf.evaluation import editing

    images, labels = chosen_images(glow, FLAGS.n or COLUMNS)
    pairs = editing.reconstruct(glow, images, labels)
    differing = int((pairs[:, 0] != pairs[:, 1]).sum())
    strips = pairs.swapaxes(0, 1)
    what = f"{len(images)} images and their reconstructions, of which {differing} of {pairs[:, 0].size} bytes differ,"
    return strips, ("image", "decoded"), {"what": what}


def draw_interpolations(glow):
    from glow_tf.evaluation import editing

    images, labels = chosen_images(glow, 2 * (FLAGS.n or 4))
    strips = editing.interpolate(glow, images, FLAGS.steps, labels, FLAGS.spherical)
    kind = "along great circles" if FLAGS.spherical else "straight"
    return strips, (), {"what": f"{len(strips)} interpolations {kind}"}


def draw_attribute(glow):
    import numpy as np

    from glow_tf.evaluation import editing

    if FLAGS.direction is not None:
        direction = editing.load_direction(FLAGS.direction, glow)
    else:
        positive, negative = attribute_images(glow)
        labels = [common_labels(glow, len(images)) for images in (positive, negative)]
        direction = editing.attribute_direction(glow, positive, negative, *labels)
        print(f"the direction: {len(positive)} images with the attribute, {len(negative)} without")
    if FLAGS.save_direction:
        editing.save_direction(FLAGS.save_direction, direction)
        print(f"the direction is saved: {FLAGS.save_direction}")
    images, _ = chosen_images(glow, FLAGS.n or 6)
    labels = common_labels(glow, len(images))
    strengths = np.linspace(-FLAGS.strength, FLAGS.strength, FLAGS.steps)
    strips = editing.move(glow, images, direction, strengths, labels)
    return strips, (), {"what": f"{len(images)} images at strengths {strengths[0]:g} to {strengths[-1]:g}"}


def draw_levels(glow):
    from glow_tf.evaluation import editing

    images, labels = chosen_images(glow, FLAGS.n or 2)
    strips = editing.redraw_levels(glow, images, FLAGS.steps, FLAGS.temp, FLAGS.seed, labels)
    names = [f"level {level}" for _ in images for level in range(glow.config.num_levels)]
    return strips, names, {"what": f"{len(images)} images, one level drawn anew in each row,"}


def draw_components(glow):
    import numpy as np

    from glow_tf.evaluation import editing, visualization

    data = chosen_data(glow)
    images, labels = data.test.random_subset(FLAGS.n or MANY, seed=0)
    conditions = common_labels(glow, len(images))
    components = editing.principal_components(editing.encode(glow, images, conditions), FLAGS.components)
    strengths = np.linspace(-3 * FLAGS.strength, 3 * FLAGS.strength, FLAGS.steps)
    strips = editing.along_components(glow, components, strengths, common_labels(glow, FLAGS.components))
    titles = [f"{index}: {share:.1%}" for index, share in enumerate(components.share, 1)]
    plot = visualization.scatter(
        components.scores[:, :2],
        labels if data.class_names else None,
        data.class_names,
        axis_names=[f"component {title} of the variance" for title in titles[:2]],
    )
    out = os.path.splitext(FLAGS.out or "pca.png")[0] + "-scatter.png"
    visualization.save_png(out, plot)
    print(f"{len(images)} test images by their first two components: {out}")
    return strips, titles, {"what": f"{len(strips)} components from -3 to 3 deviations"}


DRAW = {
    "samples": draw_samples,
    "temperature": draw_temperatures,
    "reconstruct": draw_reconstructions,
    "interpolate": draw_interpolations,
    "attribute": draw_attribute,
    "levels": draw_levels,
    "pca": draw_components,
}


def class_names(glow, indices):
    from glow_tf.evaluation import ood

    return [ood.class_name(glow, index) for index in indices]


def chosen_label(glow):
    """The index of --label, or None where it is not given."""
    if FLAGS.label is None:
        return None
    if not glow.config.num_classes:
        raise InputError(f"--label is {FLAGS.label!r}, but this model has no classes; train one with --conditional")
    names = class_names(glow, range(glow.config.num_classes))
    return index_of_class(FLAGS.label, names, "--label")


def index_of_class(name, names, flag):
    if name in names:
        return names.index(name)
    if name.isascii() and name.isdigit() and int(name) < len(names):
        return int(name)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise InputError(f"{flag} is {name!r}; the classes are {shown}, or an index from 0 to {len(names) - 1}")


def common_labels(glow, count):
    """One label for all images of a class-conditional model, else None.

    Under one label, whichever, the latents of all classes can be compared: encode and decode stay inverse.
    """
    return [chosen_label(glow) or 0] * count if glow.config.num_classes else None


def chosen_data(glow):
    """The ImageData that test: and class: mean."""
    from glow_tf.data import image_data

    return image_data.of_model(glow, FLAGS.dataset, data_dir=FLAGS.data_dir, download=FLAGS.download)


def chosen_images(glow, count):
    """(uint8 images of --images, or else the first `count` test images; their labels for a conditional model)."""
    import numpy as np

    from glow_tf.data import image_data
    from glow_tf.evaluation import editing

    label = chosen_label(glow)
    found, labels = [], []
    for name in FLAGS.images or [f"test:{','.join(map(str, range(count)))}"]:
        if name.startswith("test:"):
            chosen = chosen_data(glow)
            images, of_images = image_data.pick(chosen.test, indices_of(name, chosen))
        else:
            images = editing.read_images([name], glow.config)
            of_images = None
        if label is not None:
            of_images = np.full(len(images), label)
        found.append(images)
        labels.append(editing.labels_of(glow, images, of_images))
    known = [of_images for of_images in labels if of_images is not None]
    return np.concatenate(found), np.concatenate(known) if known else None


def indices_of(name, data):
    """[0, 5, 17] from "test:0,5,17"."""
    words = name.removeprefix("test:").split(",")
    largest = data.test.num_images - 1
    if not all(word.strip().isascii() and word.strip().isdigit() and int(word) <= largest for word in words):
        if FLAGS.images is None:  # a small test split: what it has
            return list(range(data.test.num_images))
        raise InputError(f"--images is {name!r}; it must be like test:0,5,17, with numbers from 0 to {largest}")
    return [int(word) for word in words]


def attribute_images(glow):
    """(uint8 images with the attribute that the flags describe, images without it)."""
    from glow_tf.data import image_data
    from glow_tf.evaluation import editing

    if FLAGS.csv is not None:
        if FLAGS.attribute is None:
            raise InputError("--csv needs the name of a column: --attribute NAME")
        files = editing.read_attribute(FLAGS.csv, FLAGS.attribute)
        return [editing.read_images(names[:MANY], glow.config) for names in files]
    if FLAGS.attribute is not None:
        height, width, channels = glow.config.image_shape
        return image_data.load_attribute(
            image_data.name_for(glow, FLAGS.dataset),
            FLAGS.attribute,
            MANY,
            data_dir=FLAGS.data_dir,
            image_size=(height, width),
            channels=channels,
            download=FLAGS.download,
        )
    if FLAGS.positive is None or FLAGS.negative is None:
        raise InputError(
            "an attribute needs examples: --positive and --negative (folders, or class:NAME), --attribute (of a TFDS "
            "data set, or of a table with --csv), or --direction"
        )
    return [examples(glow, flag) for flag in ("positive", "negative")]


def examples(glow, flag):
    """The images of --positive or --negative."""
    from glow_tf.data import image_folder

    value = str(FLAGS[flag].value)
    if not value.startswith("class:"):
        height, width, channels = glow.config.image_shape
        return image_folder.read_folder(value, image_size=(height, width), channels=channels).images[:MANY]
    data = chosen_data(glow)
    index = index_of_class(value.removeprefix("class:"), list(data.class_names), f"--{flag}")
    images, labels = data.train.random_subset(10 * MANY, seed=0)
    return images[labels == index][:MANY]


def run():
    """The command, from the command line; does not return."""
    app.run(main, __doc__)
