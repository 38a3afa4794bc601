"""Clusters for an application's own tests: start one, break it, heal it, in ten lines.

The pytest plugin (`plugin`) brings the fixtures ``etcd`` and ``etcd_cluster``; `Cluster` is the
same without pytest.
"""

from kvstore.testing.cluster import Cluster
from kvstore.testing.links import CLIENTS, Link, Links
from kvstore.testing.processes import Member, MemberEnded, NotInTime, wait_until

__all__ = [
    "CLIENTS",
    "Cluster",
    "Link",
    "Links",
    "Member",
    "MemberEnded",
    "NotInTime",
    "wait_until",
]
