"""Statistics, logging, tracing and progress bars."""
