-- The newest version of every file that could be used, else the newest: a copy that was cut on its
-- way does not hide the sound one that came before it, and to send that again need not heal it.
CREATE OR REPLACE VIEW files_latest ${ON_CLUSTER} AS
SELECT
    * EXCEPT (failed_reason, failed_stage, versions_count, versions_file_id),
    multiIf(stage = 'analyzed', 'analyzed', failed_reason != '', 'failed', stage) AS status,
    failed_reason AS failure_reason,
    failed_stage AS failure_stage,
    versions_count AS versions,
    versions_count > 1 AND instance_uid != '' AS conflict
FROM
(
    SELECT f.*, failed_reason, failed_stage
    FROM (SELECT * FROM files FINAL) AS f
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
    ) AS d ON file_id = failed_file_id AND image_id = failed_image_id
    ORDER BY
        tenant, dataset_id, file_id,
        stage != 'analyzed' AND failed_reason != '', received_at DESC, image_id
    LIMIT 1 BY tenant, dataset_id, file_id
) AS latest
INNER JOIN
(
    SELECT file_id AS versions_file_id, uniqExact(image_id) AS versions_count
    FROM files
    GROUP BY file_id
) AS v ON file_id = versions_file_id;
