"""Checkers: from a history to a verdict; pure functions that do not know how it came about.

Each module has one ``check(ops, ...) -> Verdict``.
"""
