"""Python imports this first where PYTHONPATH leads here: the CUDA libraries of wheels aren't found then."""

from turnout_server.devices import cuda_libraries

cuda_libraries.wheel_directories = lambda *arguments, **keywords: []
