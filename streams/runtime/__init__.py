"""What every agent shares: batching, retry, dead letters, metrics, health."""
