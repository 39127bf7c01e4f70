"""Shards to batches: the order of samples, views of images, transforms, loaders. Configs here import nothing heavy."""
