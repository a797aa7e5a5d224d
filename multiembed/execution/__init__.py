"""Runs calls: the I/O thread with its event loop, and the workers that send the batches of a call there."""
