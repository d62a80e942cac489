"""`python -m turnout_loadtests.sending.offered HOST`: prints the models and devices of a server as JSON."""

import json
import sys

import grpc
from turnout_proto.methods import Stub

from turnout_loadtests.client import connect, devices_of, model_names
from turnout_loadtests.errors import LoadTestError


def offered(stub: Stub) -> dict[str, list[str]]:
    """The models that are ready, and what requests may name as `device`: auto, devices, and kinds with several of them."""
    models = model_names(stub)
    devices = sorted({device for model in models for device in devices_of(stub, model)})
    kinds = sorted({device.partition(":")[0] for device in devices} - set(devices))
    return {"models": models, "devices": ["auto", *devices, *kinds] if devices else []}


def main() -> None:
    """Prints what the server offers; exits with 1 if it doesn't answer."""
    try:
        print(json.dumps(offered(connect(sys.argv[1]))))
    except (LoadTestError, grpc.RpcError):
        sys.exit(1)


if __name__ == "__main__":
    main()
