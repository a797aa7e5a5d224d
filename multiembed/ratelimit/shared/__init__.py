"""Quota that several processes share: one of them, the host, has the limiter that decides for all."""
