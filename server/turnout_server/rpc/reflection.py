"""Server reflection of the public services: inference and health.

The two versions of the reflection service, v1 and v1alpha, have the same messages under another package name, so they don't
differ on the wire (https://github.com/grpc/grpc/blob/master/doc/server-reflection.md). Newer clients ask for v1 first.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from turnout_proto.methods import SERVICE
from turnout_proto.pool import POOL

from turnout_server.core.errors import InvalidRequest
from turnout_server.rpc.handlers import parsed, status
from turnout_server.transport.base import Call, StreamHandler

HEALTH = "grpc.health.v1.Health"
PATHS = tuple(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))


def handlers() -> dict[str, StreamHandler]:
    """Handlers by path."""
    pool = _pool()
    servicer = reflection.ReflectionServicer([SERVICE, HEALTH], pool=pool)
    services = {method.full_name: service for service in (SERVICE, HEALTH) for method in _methods(pool, service)}

    def receiver(call: Call) -> _ReflectionCall:
        return _ReflectionCall(call, servicer, services)

    return dict.fromkeys(PATHS, receiver)


def _pool() -> descriptor_pool.DescriptorPool:
    """A pool with the files of the two services, and nothing else that this process has loaded."""
    pool = descriptor_pool.DescriptorPool()
    for file in (*_with_dependencies(POOL.FindFileContainingSymbol(SERVICE)), health_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool


def _with_dependencies(file: Any) -> Iterator[Any]:
    """The descriptor of a file after those that it imports."""
    for dependency in file.dependencies:
        yield from _with_dependencies(dependency)
    yield file


def _methods(pool: descriptor_pool.DescriptorPool, service: str) -> Any:
    return pool.FindServiceByName(service).methods


class _ReflectionCall:
    """The receiver of one reflection call; answers each request with one response.

    Args:
        services: the service of each method; protobuf's pool finds services by name, but not their methods.
    """

    def __init__(self, call: Call, servicer: reflection.ReflectionServicer, services: dict[str, str]) -> None:
        self._call = call
        self._servicer = servicer
        self._services = services

    def message(self, data: bytes) -> None:
        try:
            request = parsed(reflection_pb2.ServerReflectionRequest, data)
        except InvalidRequest as error:
            self._call.finish(status(error))
            return
        symbol = request.file_containing_symbol
        if symbol in self._services:
            request.file_containing_symbol = self._services[symbol]
        servicer: Any = self._servicer
        for response in servicer.ServerReflectionInfo(iter([request]), None):
            self._call.send(response.SerializeToString())

    def half_closed(self) -> None:
        self._call.finish()
