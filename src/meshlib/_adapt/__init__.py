"""Turns the objects of grpc, dns and ssl into core values and back; waits for nothing."""
