"""Hunts: for each known bug of etcd, a directed experiment on real processes that looks for it.

A hunt drives the one situation in which its bug shows, with bounded tries, and judges what clients
saw with a checker of `jepsen.checkers` or by the promise that it names. What may not live here:
random faults, which are `jepsen.chaos`.
"""
