"""Figures of energy landscapes (curves: panels over beta; figures: one kind each)."""
