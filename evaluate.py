"""Runs glow_tf/cli/evaluate.py; see `python3 evaluate.py --help`."""

from glow_tf.cli import evaluate

if __name__ == "__main__":
    evaluate.run()
