"""Runs glow_tf/cli/sample.py; see `python3 sample.py --help`."""

from glow_tf.cli import sample

if __name__ == "__main__":
    sample.run()
