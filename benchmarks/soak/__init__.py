"""Whether a server that runs for long holds what it has: memory, file descriptors, threads."""
