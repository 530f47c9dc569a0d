"""The commands, one per file: its flags are the fields of a dataclass `Options`, which its `main` takes.

main.py, sample.py, evaluate.py and convert.py run them, as do glow-train, glow-sample, glow-evaluate and glow-convert.
"""

# {module: (how its command is called, what it does)}.
COMMANDS = {
    "train": ("main.py", "trains a model"),
    "sample": ("sample.py", "samples images, and edits images through their latents"),
    "evaluate": ("evaluate.py", "prints the bits/dim of a test split, or scores images"),
    "convert": ("convert.py", "converts weights from and to the formats of other programs"),
    "inspect": ("python3 -m glow_tf inspect", "describes a weights file"),
    "explore": ("python3 -m glow_tf explore", "serves a page to explore a model in the browser"),
}
