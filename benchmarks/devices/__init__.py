"""What `auto` gains from two devices, on a real server, and what a killed device costs: `python -m benchmarks.devices`."""
