// Classifies an image on a device of choice; README.md beside this folder says how it is built.
//
//     java Client [ADDRESS [DEVICE]]
//
// The model is `digits` of the README: image (batch, 1, 8, 8) float32 -> logits (batch, 10) float32.

import com.google.protobuf.ByteString;
import inference.GRPCInferenceServiceGrpc;
import inference.Inference.InferParameter;
import inference.Inference.ModelInferRequest;
import inference.Inference.ModelInferResponse;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.concurrent.TimeUnit;

public class Client {
  public static void main(String[] arguments) {
    String address = arguments.length > 0 ? arguments[0] : "127.0.0.1:8001";
    String device = arguments.length > 1 ? arguments[1] : "auto";
    ModelInferRequest request =
        ModelInferRequest.newBuilder()
            .setModelName("digits")
            .addInputs(
                ModelInferRequest.InferInputTensor.newBuilder()
                    .setName("image")
                    .setDatatype("FP32")
                    .addAllShape(List.of(1L, 1L, 8L, 8L)))
            .addRawInputContents(ByteString.copyFrom(new byte[64 * Float.BYTES]))
            .putParameters("device", InferParameter.newBuilder().setStringParam(device).build())
            .build();

    ManagedChannel channel = ManagedChannelBuilder.forTarget(address).usePlaintext().build();
    try {
      ModelInferResponse answer =
          GRPCInferenceServiceGrpc.newBlockingStub(channel)
              .withDeadlineAfter(10, TimeUnit.SECONDS)
              .modelInfer(request);
      System.out.println(
          largest(answer.getRawOutputContents(0))
              + " "
              + answer.getParametersOrThrow("device").getStringParam()
              + " "
              + answer.getParametersOrThrow("route_reason").getStringParam());
    } catch (StatusRuntimeException error) {
      System.err.println(error.getStatus().getCode() + ": " + error.getStatus().getDescription());
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  /** The index of the largest little-endian float32. */
  private static int largest(ByteString raw) {
    ByteBuffer values = raw.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    int best = 0;
    for (int index = 1; index < raw.size() / Float.BYTES; index++) {
      if (values.getFloat(index * Float.BYTES) > values.getFloat(best * Float.BYTES)) {
        best = index;
      }
    }
    return best;
  }
}
