"""Running BioDataMine: the embedded stack and production deployments."""
