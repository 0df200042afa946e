-- What models answered, each under its name and version: a new version never overwrites an old one.
CREATE TABLE IF NOT EXISTS embeddings ${ON_CLUSTER}
(
    tenant        LowCardinality(String),
    dataset_id    LowCardinality(String),
    file_id       UUID,
    image_id      String,
    model         LowCardinality(String),
    model_version LowCardinality(String) COMMENT 'backbone and digest of its weights',
    received_at   DateTime64(3, 'UTC'),
    modality      LowCardinality(String),
    series_uid    String,
    dim           UInt16,
    vector        Array(Float32) COMMENT 'L2-normalised'
)
ENGINE = ${REPLICATED}ReplacingMergeTree(received_at)
ORDER BY (tenant, dataset_id, file_id, image_id, model, model_version)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS predictions ${ON_CLUSTER}
(
    tenant        LowCardinality(String),
    dataset_id    LowCardinality(String),
    file_id       UUID,
    image_id      String,
    model         LowCardinality(String),
    model_version LowCardinality(String),
    task          LowCardinality(String),
    label         LowCardinality(String),
    score         Float32,
    calibration   LowCardinality(String),
    received_at   DateTime64(3, 'UTC')
)
ENGINE = ${REPLICATED}ReplacingMergeTree(received_at)
ORDER BY (tenant, dataset_id, file_id, image_id, model, model_version, task, label)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
