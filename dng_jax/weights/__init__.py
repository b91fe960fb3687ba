"""Weights in files: our own model files and the networks that come with the library."""
