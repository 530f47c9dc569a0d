"""The defaults of the flags of all commands, which live in glow_tf/cli/defaults.py."""

from glow_tf.cli.defaults import *  # noqa: F403
