"""Texts into batches: validation, token estimates, truncation and batch packing. No I/O."""
