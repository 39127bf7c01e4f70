"""What every job runs in: run folder, tracking, signals, progress, device and ranks. Knows no model."""
