"""Start the embedded ClickHouse endpoint: ``python -m deploy.embedded.clickhouse``."""

from __future__ import annotations

import sys

from deploy.embedded.clickhouse.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
