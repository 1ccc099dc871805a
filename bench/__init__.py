"""Benchmarks, and the simulated fleet that they and the tests of faults share."""

import os

# Read by gRPC when it is imported: else it remarks on every process that a benchmark starts.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
