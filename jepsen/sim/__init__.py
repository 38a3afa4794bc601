"""Deterministic simulation: whole clusters on virtual time, everything from one seed."""
