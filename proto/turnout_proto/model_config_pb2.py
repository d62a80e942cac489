"""Message classes of proto/model_config.proto; the stub beside this file has their fields."""

from turnout_proto import pool

globals().update(pool.names_of("model_config.proto"))
