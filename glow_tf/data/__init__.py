"""Data sets as uint8 batches; image_data.load is the entry."""
