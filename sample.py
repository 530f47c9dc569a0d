"""glow_tf/cli/sample.py, started from here; `python3 sample.py --help` says what it does."""

from glow_tf.cli import sample

if __name__ == "__main__":
    sample.run()
