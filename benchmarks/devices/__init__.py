"""Measures what `auto` gains from two devices of a real server, and the effect of a killed device: `make bench-devices`."""
