"""The Open Inference Protocol's message classes and method table, in a descriptor pool of our own.

Any two packages that register `inference.*` in protobuf's default pool crash each other on import. These classes register
nothing there, so this package can be imported beside tritonclient, kserve or mlserver, in any order.
"""
