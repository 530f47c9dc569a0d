"""Runs any command of the package: `python3 -m glow_tf train|sample|evaluate|convert|inspect|explore`."""

import difflib
import importlib
import sys

from glow_tf.cli import COMMANDS, streams

USAGE = f"usage: python3 -m glow_tf {{{','.join(COMMANDS)}}} [flags]; --help after a command shows its flags"


def run() -> None:
    """Runs the command that the first argument names; does not return."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "-h", "help"):
        streams.secure()
        print("\n".join([USAGE, *(f"    {name:10}{text}" for name, (_, text) in COMMANDS.items())]))
        sys.exit(0)
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        print(f"error: {ascii(command)[:300]} is not a command of glow_tf; {hint}{USAGE}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    importlib.import_module(f"glow_tf.cli.{command}").run()


if __name__ == "__main__":
    run()
