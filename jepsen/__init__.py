"""Fault injection: break a cluster on purpose, and check that it kept its promises.

Two halves share workloads' histories, checkers and the report: `jepsen.sim` runs a whole cluster in
one process on virtual time, from one seed; `jepsen.chaos` runs real processes with real clients.
"""
