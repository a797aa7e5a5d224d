"""Decides when the next request of an account and model may start."""
