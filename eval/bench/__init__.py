"""Speed: python -m eval.bench."""
