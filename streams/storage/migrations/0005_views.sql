-- The newest version of every file, with where it stands. A file whose analysis ended in a dead
-- letter is `failed`; a replay that succeeds makes it `analyzed` again. The joined columns carry
-- other names than those of `files`, so that every column of the view keeps its plain name.
CREATE OR REPLACE VIEW files_latest ${ON_CLUSTER} AS
SELECT
    f.*,
    multiIf(stage = 'analyzed', 'analyzed', failed_reason != '', 'failed', stage) AS status,
    failed_reason AS failure_reason,
    failed_stage AS failure_stage,
    versions_count AS versions,
    versions_count > 1 AND instance_uid != '' AS conflict
FROM
(
    SELECT *
    FROM files FINAL
    ORDER BY tenant, dataset_id, file_id, received_at DESC, image_id
    LIMIT 1 BY tenant, dataset_id, file_id
) AS f
INNER JOIN
(
    SELECT file_id AS versions_file_id, uniqExact(image_id) AS versions_count
    FROM files
    GROUP BY file_id
) AS v ON file_id = versions_file_id
LEFT ANY JOIN
(
    SELECT
        assumeNotNull(file_id) AS failed_file_id,
        image_id AS failed_image_id,
        argMax(reason, failed_at) AS failed_reason,
        argMax(stage, failed_at) AS failed_stage
    FROM dead_letters FINAL
    WHERE file_id IS NOT NULL
    GROUP BY failed_file_id, failed_image_id
) AS d ON file_id = failed_file_id AND image_id = failed_image_id;

CREATE OR REPLACE VIEW datasets ${ON_CLUSTER} AS
SELECT
    tenant,
    dataset_id,
    count() AS files,
    countIf(status = 'analyzed') AS analyzed,
    countIf(status = 'failed') AS failed,
    countIf(status IN ('received', 'sniffed')) AS in_progress,
    countIf(conflict) AS conflicts,
    sum(size_bytes) AS size_bytes,
    uniqExactIf(study_uid, study_uid != '') AS studies,
    uniqExactIf(series_uid, series_uid != '') AS series,
    sumMap(map(toString(modality), toUInt64(1))) AS modality_counts,
    sumMap(map(toString(format), toUInt64(1))) AS format_counts,
    min(received_at) AS first_received_at,
    max(received_at) AS last_received_at
FROM files_latest
GROUP BY tenant, dataset_id;
