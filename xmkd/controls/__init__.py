"""The controls that decide what a distilled student owes to its teacher."""
