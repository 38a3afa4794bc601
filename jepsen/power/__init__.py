"""Real power cuts, as far as a machine can have them while it runs: a file system shut down under
the members without a flush, so that all that was not synced is gone."""
