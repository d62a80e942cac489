"""Message classes of proto/inference.proto; the stub beside this file has their fields."""

from turnout_proto import pool

globals().update(pool.names_of("inference.proto"))
