"""Readers and writers of the checkpoints of other Glow programs."""
