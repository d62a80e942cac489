"""Stands before OpenVINO's plug-in on the path, and has no library: the plug-in isn't found."""
