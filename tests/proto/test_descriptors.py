"""What is committed agrees with the public wire format, field by field, and with the .proto files it is made from."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from turnout_proto.methods import SERVICE
from turnout_proto.pool import POOL

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "data" / "open-inference-wire-table.txt"


def facts_in_table() -> Iterator[str]:
    """Every line of the table as one fact that is complete in itself: its indentation spelled out as a path."""
    path: list[tuple[int, str]] = []
    for line in TABLE.read_text().splitlines():
        text = " ".join(line.split())
        if not text or text.startswith(("service ", "== file")):
            continue
        if text.startswith("rpc "):
            yield text
            continue
        kind, _, rest = text.partition(" ")
        indent = len(line) - len(line.lstrip())
        if kind == "message":
            path = [(depth, name) for depth, name in path if depth < indent] + [(indent, rest)]
            yield f"message {dotted(path)}"
        elif kind == "enum":
            name, _, values = rest.partition(": ")
            owner = [(depth, name) for depth, name in path if depth < indent]
            yield f"enum {dotted([*owner, (indent, name)])}: {values}"
        else:
            # Fields stand 4 columns below the message that they belong to; numbers are right-aligned in 2.
            owner = [(depth, name) for depth, name in path if depth + 3 <= indent]
            yield f"{dotted(owner)}: {text}"


def dotted(path: list[tuple[int, str]]) -> str:
    return ".".join(name for _, name in path)


def facts_in_pool() -> Iterator[str]:
    """The same facts, from the committed descriptors."""
    for rpc in POOL.FindServiceByName(SERVICE).methods:
        request = ("stream " if rpc.client_streaming else "") + rpc.input_type.full_name
        response = ("stream " if rpc.server_streaming else "") + rpc.output_type.full_name
        yield f"rpc {rpc.name} ({request}) -> ({response})"
    for name in ("inference.proto", "model_config.proto"):
        file = POOL.FindFileByName(name)
        for enum in file.enum_types_by_name.values():
            yield enum_fact(enum)
        for message in file.message_types_by_name.values():
            yield from message_facts(message)


def message_facts(message: Descriptor) -> Iterator[str]:
    name = message.full_name.removeprefix("inference.")
    yield f"message {name}"
    for enum in message.enum_types:
        yield enum_fact(enum)
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from message_facts(nested)
    for field in message.fields:
        oneof = f" [oneof {field.containing_oneof.name}]" if field.containing_oneof else ""
        yield f"{name}: {field.number} {type_of(field)} {field.name}{oneof}"


def enum_fact(enum: EnumDescriptor) -> str:
    values = ", ".join(f"{value.name}={value.number}" for value in enum.values)
    return f"enum {enum.full_name.removeprefix('inference.')}: {values}"


def type_of(field: FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map<{type_of(key)},{type_of(value)}>"
    if field.message_type is not None:
        kind = field.message_type.full_name
    elif field.enum_type is not None:
        kind = field.enum_type.full_name
    else:
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()  # type: ignore[arg-type]
    return f"repeated {kind}" if field.is_repeated else kind


def test_the_descriptors_agree_with_the_wire_table_in_every_field() -> None:
    table, pool = list(facts_in_table()), list(facts_in_pool())
    assert len(table) > 400
    assert sorted(pool) == sorted(table)


@pytest.mark.parametrize("name", ["descriptors.binpb", "inference_pb2.pyi", "model_config_pb2.pyi"])
def test_what_is_committed_is_what_the_generator_makes_now(name: str, tmp_path: Path) -> None:
    python = ROOT / ".venv-proto" / "bin" / "python"
    if not python.exists():
        pytest.skip("the generator's environment is missing; `make test` creates it")
    subprocess.run([python, ROOT / "proto" / "generate.py", tmp_path], check=True)
    assert (tmp_path / name).read_bytes() == (ROOT / "proto" / "turnout_proto" / name).read_bytes()
