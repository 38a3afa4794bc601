"""Generated protobuf messages of etcd's v3 API. Made by ``proto/generate.py``; never edited."""
