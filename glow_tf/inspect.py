"""The former name of `python3 -m glow_tf inspect`."""

from glow_tf.cli import inspect

if __name__ == "__main__":
    inspect.run()
