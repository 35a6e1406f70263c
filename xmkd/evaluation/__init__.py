"""Statistics of diagnostic accuracy, thresholds, comparison; no Lightning here."""
