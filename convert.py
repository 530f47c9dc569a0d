"""glow_tf/cli/convert.py, started from here; `python3 convert.py --help` says what it does."""

from glow_tf.cli import convert

if __name__ == "__main__":
    convert.run()
