"""What a host does in a nanosecond: small kernels that each do one thing, timed apart, so that a model may put whole kernels together."""
