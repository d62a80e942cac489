"""Load tests for servers of the Open Inference Protocol: what a model does on each device, measured with Locust."""
