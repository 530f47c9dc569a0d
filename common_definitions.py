"""Re-exports the defaults of the commands' flags, which are defined in glow_tf/cli/defaults.py."""

from glow_tf.cli.defaults import *  # noqa: F403
