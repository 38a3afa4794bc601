"""Deliberately broken servers, to see that the checkers can fail.

Each mutant patches the real classes of `kvstore` and `raft` in this process, so the server itself
has no hooks for it. `registry` says what a mutant is, the modules by topic hold them, `hunt` looks
for each with the simulation, with chaos or with power cuts, and `__main__` starts a broken member.
None of it works in an installed release (`guard`).
"""
