"""Everything that looks for faults, again and again with other seeds, until time is up."""
