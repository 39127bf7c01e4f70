"""What a command starts."""
