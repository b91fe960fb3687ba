"""The class-removal study: python -m eval.study."""
