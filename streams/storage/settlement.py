"""Which received files have reached their end: a final row, or a dead letter with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streams.storage.clickhouse import ClickHouse, StorageUnavailableError

_QUERY = """
SELECT toString(file_id), image_id FROM files
WHERE stage = 'analyzed' AND file_id IN {files:Array(UUID)} AND image_id IN {images:Array(String)}
UNION DISTINCT
SELECT toString(assumeNotNull(file_id)), image_id FROM dead_letters
WHERE file_id IN {files:Array(UUID)} AND image_id IN {images:Array(String)}
"""

Key = tuple[str, str]


class ClickHouseSettlement:
    """Answers from ClickHouse whether files have reached their end.

    Parameters
    ----------
    database : ClickHouse
        Where the rows are.
    """

    def __init__(self, database: ClickHouse) -> None:
        self._database = database

    async def settled(self, keys: Sequence[Key]) -> set[Key]:
        """Return those of the keys, (file_id, image_id), that have a final row or dead letter.

        While ClickHouse is away nothing counts as settled.
        """
        if not keys:
            return set()
        parameters = {
            "files": sorted({file for file, _ in keys}),
            "images": sorted({image for _, image in keys}),
        }
        try:
            rows = await asyncio.to_thread(self._database.query, _QUERY, parameters)
        except StorageUnavailableError:
            return set()
        return {(str(file), str(image)) for file, image in rows} & set(keys)
