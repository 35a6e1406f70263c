"""The report of a run: one HTML file that holds everything a reader needs, made from the run folder alone."""
