"""One HTML file for each run, which opens without a network."""
