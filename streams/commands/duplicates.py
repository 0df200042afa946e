"""Files of a dataset that are the same bytes, or show the same picture."""

from __future__ import annotations

from typing import Any

# As many distinct pictures are compared with each other; it takes about a second.
MAX_PICTURES = 20_000
MAX_SHOWN = 10
_EXAMPLES = 4

_SAME_BYTES = """
SELECT count() AS groups, sum(copies) AS files FROM
    (SELECT count() AS copies FROM files_latest
     WHERE tenant = {tenant:String} AND dataset_id = {dataset:String}
     GROUP BY image_id HAVING copies > 1)
"""
_PICTURES = """
SELECT perceptual_hash AS hash, count() AS files, uniqExact(q.image_id) AS contents,
       min(relpath) AS first_path, max(relpath) AS last_path,
       min(series_uid) AS first_series, max(series_uid) AS last_series
FROM
    (SELECT file_id, image_id, assumeNotNull(perceptual_hash) AS perceptual_hash
     FROM image_quality FINAL
     WHERE tenant = {tenant:String} AND dataset_id = {dataset:String}
       AND perceptual_hash IS NOT NULL AND NOT ifNull(is_near_constant, false)) AS q
INNER JOIN
    (SELECT file_id AS latest_file_id, image_id AS latest_image_id, relpath, series_uid
     FROM files_latest WHERE tenant = {tenant:String} AND dataset_id = {dataset:String}) AS f
ON q.file_id = latest_file_id AND q.image_id = latest_image_id
GROUP BY hash ORDER BY files DESC, hash LIMIT {limit:UInt32}
"""


def find_duplicates(
    database: Any, where: dict[str, Any], *, max_pictures: int = MAX_PICTURES
) -> dict[str, Any]:
    """Find groups of files that are the same bytes or look the same.

    Pictures count as the same when their hashes differ in a few bits: re-encoded, resized and
    windowed copies do. Blank and nearly constant ones all look the same and are left out, and so
    are groups within one series, whose slices resemble each other.

    Parameters
    ----------
    database : ClickHouse
        Where the facts are.
    where : dict
        ``tenant`` and ``dataset``.
    max_pictures : int
        Most distinct hashes to compare; those of the most files first.

    Returns
    -------
    dict
        ``same_bytes`` and ``same_picture``, each with the number of groups and files in them;
        ``largest``, the largest groups of the same picture with the files in each, how many
        different contents they have, and examples; ``max_distance_bits``; ``is_complete``,
        whether all pictures were compared.
    """
    # NumPy and Pillow are too slow to import for the commands that do not need them.
    import numpy as np

    from streams.pixels.hashing import MAX_DUPLICATE_DISTANCE, leader_groups, neighbours

    ((groups, files),) = database.query(_SAME_BYTES, where)
    names, rows = database.query_columns(_PICTURES, where | {"limit": max_pictures + 1})
    pictures = [dict(zip(names, row, strict=True)) for row in rows]
    is_complete = len(pictures) <= max_pictures
    pictures = pictures[:max_pictures]
    near = neighbours(np.array([one["hash"] for one in pictures], np.uint64))
    found = leader_groups([one["files"] for one in pictures], near)
    grouped = {index for group in found for index in group}
    # Many files may share one hash, and resemble no other.
    found += [[i] for i, one in enumerate(pictures) if one["files"] > 1 and i not in grouped]
    told = [_tell([pictures[index] for index in group]) for group in found]
    alike = [one for one in told if one is not None]
    alike.sort(key=lambda one: (-one["files"], one["examples"]))
    return {
        "same_bytes": {"groups": int(groups), "files": int(files)},
        "same_picture": {"groups": len(alike), "files": sum(one["files"] for one in alike)},
        "largest": alike[:MAX_SHOWN],
        "pictures": len(pictures),
        "max_distance_bits": MAX_DUPLICATE_DISTANCE,
        "is_complete": is_complete and near.is_complete,
    }


def _tell(members: list[dict[str, Any]]) -> dict[str, Any] | None:
    series = {one[key] for one in members for key in ("first_series", "last_series")}
    contents = sum(one["contents"] for one in members)
    if contents < 2 or (len(series) == 1 and "" not in series):
        return None
    paths = {one[key] for one in members for key in ("first_path", "last_path")}
    return {
        "files": sum(one["files"] for one in members),
        "contents": contents,
        "examples": sorted(paths)[:_EXAMPLES],
    }
