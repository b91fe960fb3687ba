"""Fixed points of a Hopfield network, and the proof that they are minima."""
