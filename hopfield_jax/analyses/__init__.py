"""What minima do as beta changes: sweeps, transitions, basins, capacity, retrieval."""
