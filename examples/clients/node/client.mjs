// Classifies an image on a device of choice. The messages are read from the .proto files when it starts.
//
//     npm install @grpc/grpc-js @grpc/proto-loader
//     node client.mjs [ADDRESS [DEVICE]]
//
// The model is `digits` of the README: image (batch, 1, 8, 8) float32 -> logits (batch, 10) float32.

import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address = "127.0.0.1:8001", device = "auto"] = process.argv.slice(2);

const protos = fileURLToPath(new URL("../../../proto", import.meta.url));
const definition = protoLoader.loadSync("inference.proto", { includeDirs: [protos], keepCase: true, longs: Number });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1, // the default is 4 MiB
});

const request = {
  model_name: "digits",
  inputs: [{ name: "image", datatype: "FP32", shape: [1, 1, 8, 8] }],
  raw_input_contents: [Buffer.from(new Float32Array(64).buffer)],
  parameters: { device: { string_param: device } },
};

client.ModelInfer(request, { deadline: Date.now() + 10_000 }, (error, answer) => {
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exitCode = 1;
    return;
  }
  const raw = answer.raw_output_contents[0];
  const logits = Array.from({ length: raw.length / 4 }, (_, index) => raw.readFloatLE(4 * index));
  const { device: ranOn, route_reason: reason } = answer.parameters;
  console.log(logits.indexOf(Math.max(...logits)), ranOn.string_param, reason.string_param);
});
