"""glow_tf/commands/sample.py, started from here; `python3 sample.py --help` says what it does."""

from glow_tf.commands import sample

if __name__ == "__main__":
    sample.run()
