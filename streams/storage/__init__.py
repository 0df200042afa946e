"""Blobs, the ClickHouse client, migrations, rows and the batch writer."""
