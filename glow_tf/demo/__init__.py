"""The page of `python3 -m glow_tf explore`: the model behind it, its widgets, and the requests that it allows."""
