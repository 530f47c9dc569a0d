"""glow_tf/cli/evaluate.py, started from here; `python3 evaluate.py --help` says what it does."""

from glow_tf.cli import evaluate

if __name__ == "__main__":
    evaluate.run()
