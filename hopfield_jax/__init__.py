"""Modern Hopfield networks as energy landscapes."""
