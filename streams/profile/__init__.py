"""What the stream looks like now: rolling clusters, outliers and drift of one scope.

A scope is a tenant, a dataset or site, a modality, and one version of an embedding model. Its
profile is a value that grows arrival by arrival, in the order of its Kafka partition, and says the
same after a replay: nothing here reads a clock, and chance is seeded. Import the modules
themselves: ``streams.profile.scope`` is where to begin.
"""
