"""What a classifier looks at: maps by many methods, how far each can be trusted, why this class and not that."""
