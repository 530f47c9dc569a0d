"""The former name of `python3 -m glow_tf explore`."""

from glow_tf.cli import explore

if __name__ == "__main__":
    explore.run()
