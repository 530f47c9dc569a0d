"""The commands, one per file.

main.py, sample.py, evaluate.py and convert.py run them, as do glow-train, glow-sample, glow-evaluate and glow-convert.
Each command defines its flags on import, so a process imports only one of them.
"""
