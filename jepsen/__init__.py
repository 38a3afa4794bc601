"""Fault injection and consistency checking. Nothing imports this package; it imports kvstore and raft."""
