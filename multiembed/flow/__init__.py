"""What becomes of one batch: requests, retries, splits and isolation, decided without I/O."""
