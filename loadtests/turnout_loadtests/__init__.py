"""Load tests for servers of the Open Inference Protocol: how fast a model is on each device, measured with Locust."""
