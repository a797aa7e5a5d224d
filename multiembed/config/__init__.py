"""The options of a client, and what they mean for its provider and model."""
