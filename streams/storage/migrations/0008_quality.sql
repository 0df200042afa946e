-- What is good or bad about the slice that was looked at: one column for each field of
-- schemas.facts.QualityFacts. The hash is a number, so that bitHammingDistance takes it.
CREATE TABLE IF NOT EXISTS image_quality ${ON_CLUSTER}
(
    tenant                LowCardinality(String),
    dataset_id            LowCardinality(String),
    file_id               UUID,
    image_id              String,
    received_at           DateTime64(3, 'UTC'),
    modality              LowCardinality(String),
    is_blank              Nullable(Bool),
    is_near_constant      Nullable(Bool),
    is_clipped            Nullable(Bool),
    is_blurry             Nullable(Bool),
    clipped_low_fraction  Nullable(Float64),
    clipped_high_fraction Nullable(Float64),
    blur                  Nullable(Float64) COMMENT '0 sharp to 1',
    perceptual_hash       Nullable(UInt64) COMMENT '64-bit DCT hash; none for a blank picture',
    text_box_count        Nullable(UInt32),
    text_area_fraction    Nullable(Float64),
    contrast_per_pixel    Nullable(Float64),
    mean                  Nullable(Float64),
    rng                   Nullable(Float64),
    var                   Nullable(Float64),
    cv_percent            Nullable(Float64),
    psnr_db               Nullable(Float64),
    snr1                  Nullable(Float64),
    snr2                  Nullable(Float64),
    snr3                  Nullable(Float64),
    snr4                  Nullable(Float64),
    cnr                   Nullable(Float64),
    cvp                   Nullable(Float64),
    cjv                   Nullable(Float64),
    efc                   Nullable(Float64),
    fber                  Nullable(Float64)
)
ENGINE = ${REPLICATED}ReplacingMergeTree(received_at)
ORDER BY (tenant, dataset_id, file_id, image_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- How a modality was found, with every vote, in one row: a later decision replaces all votes of an
-- earlier one. The arrays of votes are parallel, and so are those of attributes.
CREATE TABLE IF NOT EXISTS modality_decisions ${ON_CLUSTER}
(
    tenant                LowCardinality(String),
    dataset_id            LowCardinality(String),
    file_id               UUID,
    image_id              String,
    received_at           DateTime64(3, 'UTC'),
    modality              LowCardinality(String),
    family                LowCardinality(String) COMMENT 'kind of image, also where no class is named',
    abstained             Bool,
    abstained_reason      String,
    confidence            Nullable(Float64),
    novelty               Nullable(Float64) COMMENT 'distance from what the method was taught',
    method                LowCardinality(String),
    method_version        LowCardinality(String),
    conflict              Bool,
    conflict_reason       String,
    vote_signals          Array(LowCardinality(String)),
    vote_labels           Array(LowCardinality(String)),
    vote_weights          Array(Nullable(Float64)),
    vote_confidences      Array(Nullable(Float64)),
    vote_evidences        Array(String),
    attribute_names       Array(LowCardinality(String)),
    attribute_values      Array(LowCardinality(String)),
    attribute_confidences Array(Nullable(Float64)),
    attribute_evidences   Array(String)
)
ENGINE = ${REPLICATED}ReplacingMergeTree(received_at)
ORDER BY (tenant, dataset_id, file_id, image_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- One row for each vote.
CREATE OR REPLACE VIEW modality_votes ${ON_CLUSTER} AS
SELECT
    tenant, dataset_id, file_id, image_id, received_at, modality, method, method_version,
    signal, label, weight, vote_confidence AS confidence, evidence
FROM (SELECT * FROM modality_decisions FINAL)
ARRAY JOIN
    vote_signals AS signal,
    vote_labels AS label,
    vote_weights AS weight,
    vote_confidences AS vote_confidence,
    vote_evidences AS evidence;

-- One row for each attribute: view, plane, contrast phase, body part.
CREATE OR REPLACE VIEW image_attributes ${ON_CLUSTER} AS
SELECT
    tenant, dataset_id, file_id, image_id, received_at, modality, name, value,
    attribute_confidence AS confidence, evidence
FROM (SELECT * FROM modality_decisions FINAL)
ARRAY JOIN
    attribute_names AS name,
    attribute_values AS value,
    attribute_confidences AS attribute_confidence,
    attribute_evidences AS evidence;
