"""Other ends of the network: TLS with them, and whether they are well."""
