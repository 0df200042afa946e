-- Datasets as before; an answer that was not given is no modality, and conflicts are counted.
CREATE OR REPLACE VIEW datasets ${ON_CLUSTER} AS
SELECT
    if(f.files_tenant != '', f.files_tenant, r.requests_tenant) AS tenant,
    if(f.files_dataset_id != '', f.files_dataset_id, r.requests_dataset_id) AS dataset_id,
    if(r.request_name != '', r.request_name, dataset_id) AS name,
    if(r.request_source != '', r.request_source, f.file_source) AS source,
    multiIf(
        r.requests_fetching > 0, 'fetching',
        r.requests_queued > 0, 'queued',
        f.in_progress > 0 OR r.files_announced > f.files, 'analysing',
        f.files = 0 AND r.requests_failed > 0, 'failed',
        'finalised'
    ) AS stage,
    f.files AS files,
    f.analyzed AS analyzed,
    f.failed AS failed,
    f.in_progress AS in_progress,
    f.conflicts AS conflicts,
    f.size_bytes AS size_bytes,
    f.studies AS studies,
    f.series AS series,
    f.modality_counts AS modality_counts,
    f.format_counts AS format_counts,
    f.ext_counts AS ext_counts,
    f.mixed_modality AS mixed_modality,
    f.modality_unknown AS modality_unknown,
    f.modality_conflicts AS modality_conflicts,
    f.new_versions AS new_versions,
    r.requests AS requests,
    r.requests_failed AS requests_failed,
    r.refused AS refused,
    r.fetched_bytes AS fetched_bytes,
    f.first_received_at AS first_received_at,
    f.last_received_at AS last_received_at
FROM
(
    SELECT
        tenant AS files_tenant,
        dataset_id AS files_dataset_id,
        any(source) AS file_source,
        count() AS files,
        countIf(status = 'analyzed') AS analyzed,
        countIf(status = 'failed') AS failed,
        countIf(status IN ('received', 'sniffed')) AS in_progress,
        countIf(conflict) AS conflicts,
        countIf(versions > 1) AS new_versions,
        sum(size_bytes) AS size_bytes,
        uniqExactIf(study_uid, study_uid != '') AS studies,
        uniqExactIf(series_uid, series_uid != '') AS series,
        sumMap(map(toString(modality), toUInt64(1))) AS modality_counts,
        sumMap(map(toString(format), toUInt64(1))) AS format_counts,
        sumMap(map(lower(extract(relpath, '[^/.]((?:\\.nii)?\\.[A-Za-z0-9]{1,12})$')), toUInt64(1))) AS ext_counts,
        uniqExactIf(modality, modality NOT IN ('', 'unknown')) > 1 AS mixed_modality,
        countIf(modality = 'unknown') AS modality_unknown,
        countIf(modality_conflict) AS modality_conflicts,
        min(received_at) AS first_received_at,
        max(received_at) AS last_received_at
    FROM files_latest
    GROUP BY tenant, dataset_id
) AS f
FULL OUTER JOIN
(
    SELECT
        tenant AS requests_tenant,
        dataset_id AS requests_dataset_id,
        count() AS requests,
        countIf(state = 'queued') AS requests_queued,
        countIf(state = 'fetching') AS requests_fetching,
        countIf(state = 'failed') AS requests_failed,
        argMax(dataset_name, (dataset_name != '', requested_at)) AS request_name,
        argMax(ingest_requests.source, requested_at) AS request_source,
        max(ingest_requests.files) AS files_announced,
        sum(ingest_requests.refused) AS refused,
        sum(ingest_requests.fetched_bytes) AS fetched_bytes
    FROM ingest_requests FINAL
    GROUP BY tenant, dataset_id
) AS r ON f.files_tenant = r.requests_tenant AND f.files_dataset_id = r.requests_dataset_id;
