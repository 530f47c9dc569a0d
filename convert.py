"""Runs glow_tf/cli/convert.py; see `python3 convert.py --help`."""

from glow_tf.cli import convert

if __name__ == "__main__":
    convert.run()
