"""Statistics of diagnostic accuracy, thresholds, comparison and report; no Lightning here."""
