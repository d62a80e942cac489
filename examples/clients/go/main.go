// Classifies an image on a device of choice; README.md beside this folder says how it is built.
//
//	go run . [ADDRESS [DEVICE]]
//
// The model is `digits` of the README: image (batch, 1, 8, 8) float32 -> logits (batch, 10) float32.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "turnout-client/inference"
)

func main() {
	address, device := argument(1, "127.0.0.1:8001"), argument(2, "auto")
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fail(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	answer, err := pb.NewGRPCInferenceServiceClient(connection).ModelInfer(ctx, &pb.ModelInferRequest{
		ModelName: "digits",
		Inputs: []*pb.ModelInferRequest_InferInputTensor{
			{Name: "image", Datatype: "FP32", Shape: []int64{1, 1, 8, 8}},
		},
		RawInputContents: [][]byte{make([]byte, 64*4)},
		Parameters: map[string]*pb.InferParameter{
			"device": {ParameterChoice: &pb.InferParameter_StringParam{StringParam: device}},
		},
	})
	if err != nil {
		fail(err)
	}
	parameters := answer.GetParameters()
	fmt.Println(largest(answer.GetRawOutputContents()[0]),
		parameters["device"].GetStringParam(), parameters["route_reason"].GetStringParam())
}

// largest returns the index of the largest little-endian float32 in raw.
func largest(raw []byte) int {
	best, at := float32(math.Inf(-1)), 0
	for index := 0; index < len(raw)/4; index++ {
		value := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*index:]))
		if value > best {
			best, at = value, index
		}
	}
	return at
}

func argument(index int, otherwise string) string {
	if index < len(os.Args) {
		return os.Args[index]
	}
	return otherwise
}

func fail(err error) {
	problem, _ := status.FromError(err)
	fmt.Fprintf(os.Stderr, "%s: %s\n", problem.Code(), problem.Message())
	os.Exit(1)
}
