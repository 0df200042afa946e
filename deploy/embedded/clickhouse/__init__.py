"""ClickHouse's HTTP interface served from one process over the embedded engine chDB.

``python -m deploy.embedded.clickhouse --path DIR`` starts it; see `server.main`.
"""
