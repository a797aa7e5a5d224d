"""Responses into validated vectors or errors. No I/O."""
