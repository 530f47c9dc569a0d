"""The page of `python3 -m glow_tf explore`: its model, its widgets, and the requests that it allows."""
