"""Files of bbolt, the key-value store that etcd keeps its data in: written in bulk, read, checked.

Nothing here knows etcd's buckets (that is `kvstore.snapshot`), and nothing changes a file in place:
a database is written once, from sorted data, or read. That is a tenth of bbolt, and all that files
which move between this project and etcd need.
"""
