"""Readers of raw datasets: each module has one function that checks a folder and returns a `RawDataset`."""
