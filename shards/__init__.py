"""The data: raw datasets to WebDataset shards to batches. Imports nothing heavy at package level."""
