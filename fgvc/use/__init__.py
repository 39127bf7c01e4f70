"""Using a trained classifier: predictions of pictures, exports for other programs, a local page."""
