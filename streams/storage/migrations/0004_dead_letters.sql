-- One row for each message that could not be used. Its key is made from the file that the message is
-- about, else from its bytes, so the same failing again in the same stage for the same reason stays
-- one row.
CREATE TABLE IF NOT EXISTS dead_letters ${ON_CLUSTER}
(
    dead_letter_id   UUID,
    stage            LowCardinality(String),
    reason           LowCardinality(String),
    error            String COMMENT 'what went wrong, without values from the file',
    source_topic     LowCardinality(String),
    source_partition Int32,
    source_offset    Int64,
    failed_at        DateTime64(3, 'UTC'),
    message_sha256   String,
    message_bytes    UInt32,
    tenant           LowCardinality(String),
    dataset_id       LowCardinality(String),
    file_id          Nullable(UUID),
    image_id         String,
    trace_id         String
)
ENGINE = ${REPLICATED}ReplacingMergeTree(failed_at)
ORDER BY (stage, dead_letter_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
