"""From a dataset to a durable instance, whatever way it comes in by."""
