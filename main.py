"""glow_tf/cli/train.py, started from here; `python3 main.py --help` says what it does."""

from glow_tf.cli import train

if __name__ == "__main__":
    train.run()
