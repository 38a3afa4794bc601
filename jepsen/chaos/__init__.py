"""Real processes, real sockets, real clients: workloads run while a nemesis breaks the cluster."""
