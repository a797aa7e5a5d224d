"""What `multiembed doctor` looks at: the key, the way to the host, one real call, and what to do about each failure."""
