"""Modern Hopfield networks as energy landscapes: python -m eval.hopfield."""
