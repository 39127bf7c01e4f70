"""One HTML page of any runs, made from their folders alone."""
