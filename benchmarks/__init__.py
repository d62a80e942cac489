"""Measures Turnout: against other servers (`make bench`), on two devices (`make bench-devices`), over time (`make soak`)."""
