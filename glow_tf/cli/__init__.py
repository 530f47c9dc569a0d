"""The commands, one per file.

main.py, sample.py, evaluate.py and convert.py run them, as do glow-train, glow-sample, glow-evaluate and glow-convert.
Each command defines its flags on import, so a process imports only one of them.
"""

# {module: how its command is called}.
COMMANDS = {
    "train": "main.py",
    "sample": "sample.py",
    "evaluate": "evaluate.py",
    "convert": "convert.py",
    "inspect": "python3 -m glow_tf inspect",
    "explore": "python3 -m glow_tf explore",
}
