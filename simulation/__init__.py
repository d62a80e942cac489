"""Simulates routing in virtual time with the server's own scheduling functions: `make simulate`. It measures nothing."""
