"""The model as a Keras model and as a SavedModel."""
