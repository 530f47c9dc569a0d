"""The defaults of the commands' flags, under the name they have at the top level: glow_tf/cli/defaults.py."""

from glow_tf.cli.defaults import *  # noqa: F403
