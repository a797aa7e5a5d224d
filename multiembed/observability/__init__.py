"""Counters, traces, logs and progress bars."""
