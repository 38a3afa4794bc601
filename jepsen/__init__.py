"""Fault injection and consistency checking: imports kvstore and raft, and nothing imports it."""
