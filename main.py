"""Runs glow_tf/cli/train.py; see `python3 main.py --help`."""

from glow_tf.cli import train

if __name__ == "__main__":
    train.run()
