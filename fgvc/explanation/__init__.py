"""What a classifier looks at: maps, and how far each method can be trusted."""
