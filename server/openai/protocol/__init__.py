"""Bodies of requests and parts of answers that several routes share."""
