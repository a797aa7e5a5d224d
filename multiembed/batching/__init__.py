"""Texts into batches: input checks, token estimates, truncation and packing. No I/O."""
