"""What operators see: metrics, the log of requests, spans, probes."""
