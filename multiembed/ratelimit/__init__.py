"""Rate limiter of an account and model: permits, limits, circuit breaker and retry budget."""
