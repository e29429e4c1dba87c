"""Converts the objects of grpc, dns and ssl to core values and back, without waiting."""
