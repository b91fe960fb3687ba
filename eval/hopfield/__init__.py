"""Modern Hopfield networks as energy landscapes: python -m eval.hopfield, a file per subcommand."""
