"""The defaults of the commands' flags, under the name they have at the top level: glow_tf/commands/defaults.py."""

from glow_tf.commands.defaults import *  # noqa: F403
