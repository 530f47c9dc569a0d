"""Metrics, out-of-distribution scores, latent editing, and pictures of a trained model."""
