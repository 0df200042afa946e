-- One row for each version of a file. Every later stage writes the row again with what it knows,
-- and the version column is the stage: whatever the order of arrival, the richest row stays.
CREATE TABLE IF NOT EXISTS files ${ON_CLUSTER}
(
    tenant              LowCardinality(String),
    dataset_id          LowCardinality(String),
    file_id             UUID,
    image_id            String              COMMENT 'SHA-256 of the bytes',
    relpath             String,
    stage               LowCardinality(String) COMMENT 'received, sniffed or analyzed',
    stage_rank          UInt8               COMMENT 'the order of the stages; the highest stays',
    event_id            UUID,
    trace_id            String,
    source              LowCardinality(String),
    received_at         DateTime64(3, 'UTC'),
    processed_at        DateTime64(3, 'UTC'),
    size_bytes          UInt64,
    media_type          LowCardinality(String),
    blob_uri            String,
    request_id          String,
    association_id      String,
    calling_ae_title    LowCardinality(String),
    called_ae_title     LowCardinality(String),
    study_uid           String,
    series_uid          String,
    instance_uid        String,
    sop_class_uid       LowCardinality(String),
    transfer_syntax_uid LowCardinality(String),
    conflicts_with      String              COMMENT 'image_id of other bytes that came earlier under the same file_id',
    format              LowCardinality(String),
    outcome             LowCardinality(String) COMMENT 'decoded, no-pixels or not-an-image; empty before analysis',
    modality            LowCardinality(String),
    modality_method     LowCardinality(String),
    modality_confidence Nullable(Float32)   COMMENT 'empty where no calibrated model gave one',
    modality_conflict   Bool,
    thumbnail_uri       String,
    problems            Array(LowCardinality(String)),
    absent_models       Array(LowCardinality(String))
)
ENGINE = ${REPLICATED}ReplacingMergeTree(stage_rank)
ORDER BY (tenant, dataset_id, file_id, image_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
