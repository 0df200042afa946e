"""Which files are known already with just these bytes, so that nobody looks at them again."""

from __future__ import annotations

from collections.abc import Iterable

from streams.storage.clickhouse import ClickHouse, StorageUnavailableError

_ANY = """
SELECT 1 FROM files WHERE tenant = {tenant:String} AND dataset_id = {dataset:String} LIMIT 1
"""
_UNCHANGED = """
SELECT toString(file_id), image_id FROM
(
    SELECT file_id, image_id, stage
    FROM files FINAL
    WHERE tenant = {tenant:String} AND dataset_id = {dataset:String}
      AND file_id IN {files:Array(UUID)}
    ORDER BY file_id, received_at DESC, image_id
    LIMIT 1 BY file_id
)
WHERE stage = 'analyzed' OR (file_id, image_id) IN
(
    SELECT assumeNotNull(file_id), image_id FROM dead_letters WHERE file_id IN {files:Array(UUID)}
)
"""

Key = tuple[str, str]


class CurrentVersions:
    """Tells which files of a dataset have reached their end with the bytes that they have now.

    Parameters
    ----------
    database : ClickHouse
        Where the rows are.
    """

    def __init__(self, database: ClickHouse) -> None:
        self._database = database

    def has_files(self, tenant: str, dataset_id: str) -> bool:
        """Whether the dataset has any file; a new one needs no look-ups."""
        try:
            return bool(self._database.query(_ANY, {"tenant": tenant, "dataset": dataset_id}))
        except StorageUnavailableError:
            return False

    def unchanged(self, tenant: str, dataset_id: str, keys: Iterable[Key]) -> set[Key]:
        """Return those of (file_id, image_id) that are the newest version, and finished.

        A file whose former content comes back is not among them: it is a version again. While
        ClickHouse is away nothing is known, and everything is looked at once more.
        """
        wanted = set(keys)
        if not wanted:
            return set()
        parameters = {
            "tenant": tenant,
            "dataset": dataset_id,
            "files": sorted({file for file, _ in wanted}),
        }
        try:
            rows = self._database.query(_UNCHANGED, parameters)
        except StorageUnavailableError:
            return set()
        return {(str(file), str(image)) for file, image in rows} & wanted
