"""A small stream of radiographs for the tests of drift."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np

from streams.profile.drift.features import BY_NAME

DAY = datetime(2026, 2, 2, tzinfo=timezone.utc)
FEATURES = tuple(
    BY_NAME[name]
    for name in (
        "header.view_position",
        "header.patient_age_years",
        "signals.mean",
        "signals.p50",
        "embedding",
    )
)


def draw(seed, count, *, after=0, lateral=0.0, older=0.0, brighter=0.0, moved=0.0):
    """Draw studies as columns; from ``after`` on they are changed as asked."""
    random = np.random.default_rng(seed)
    late = np.arange(count) >= after
    side = (random.random(count) < 0.005) | (late & (random.random(count) < lateral))
    bedside = random.random(count) < 0.4
    age = np.clip(55 + 12 * bedside + 14 * random.standard_normal(count) + older * late, 0, 90)
    light = random.standard_normal(count) + brighter * late - 1.5 * side
    vectors = 0.3 * random.standard_normal((count, 12))
    vectors[:, 0] += 1.0
    vectors[:, 1] += 0.8 * side
    vectors[:, 2] += 0.3 * moved * late
    vectors[:, 3] += 0.1 * light
    return {
        "header.view_position": np.where(side, "LL", np.where(bedside, "AP", "PA")).tolist(),
        "header.patient_age_years": np.round(age),
        "signals.mean": 120 + 15 * light + 3 * random.standard_normal(count),
        "signals.p50": 115 + 16 * light + 3 * random.standard_normal(count),
        "embedding": vectors,
    }
