"""Snapshots that move between this project and etcd: files in etcd's own form, both ways.

`export` writes the state of a backend as an etcd database, `load` reads one back into a backend,
`file` knows the digest behind it, `status` says what is in it, `convert` is the export as a process
of its own. Snapshots that bring a slow follower up to date are another thing: those are copies of
the backend as it is (`kvstore.storage.snapshot_file`).
"""
