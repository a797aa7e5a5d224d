"""`multiembed doctor`: checks of the configuration, one real call, and what to do about each failure."""
