"""Evaluation jobs: each runs as `python -m eval.<job> --help` and writes one run folder."""
