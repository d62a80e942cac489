"""A simulation of routing in virtual time, by the server's own pure functions."""
