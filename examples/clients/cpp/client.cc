// Classifies an image on a device of choice; README.md beside this folder says how it is built.
//
//     ./client [ADDRESS [DEVICE]]
//
// The model is `digits` of the README: image (batch, 1, 8, 8) float32 -> logits (batch, 10) float32.
// It assumes a little-endian processor, as the protocol's raw tensors are.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "inference.grpc.pb.h"

int main(int argc, char** argv) {
  const std::string address = argc > 1 ? argv[1] : "127.0.0.1:8001";
  const std::string device = argc > 2 ? argv[2] : "auto";

  inference::ModelInferRequest request;
  request.set_model_name("digits");
  auto* image = request.add_inputs();
  image->set_name("image");
  image->set_datatype("FP32");
  for (const int size : {1, 1, 8, 8}) image->add_shape(size);
  request.add_raw_input_contents(std::string(64 * sizeof(float), '\0'));
  (*request.mutable_parameters())["device"].set_string_param(device);

  auto stub = inference::GRPCInferenceService::NewStub(
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  inference::ModelInferResponse answer;
  const grpc::Status status = stub->ModelInfer(&context, request, &answer);
  if (!status.ok()) {
    std::cerr << status.error_code() << ": " << status.error_message() << '\n';
    return 1;
  }

  const std::string& raw = answer.raw_output_contents(0);
  std::vector<float> logits(raw.size() / sizeof(float));
  std::memcpy(logits.data(), raw.data(), raw.size());
  const auto digit = std::max_element(logits.begin(), logits.end()) - logits.begin();
  std::cout << digit << ' ' << answer.parameters().at("device").string_param() << ' '
            << answer.parameters().at("route_reason").string_param() << '\n';
  return 0;
}
