"""The controller: job queue, scheduling and the gRPC services."""
