"""What is sampled, by which rule, and which classifier looks at it."""
