"""The commands, one a file.

They are what main.py, sample.py, evaluate.py and convert.py run, and glow-train, glow-sample, glow-evaluate and
glow-convert. Each defines its flags when it is imported, so a process imports one of them.
"""
