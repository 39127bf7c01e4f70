"""The steps, one file each, and the command line. Imports nothing heavy at package level."""
