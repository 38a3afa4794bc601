"""An etcd-compatible, Raft-based consistent key-value store."""
