"""References: what a scope looked like when it was good, frozen and named by its content.

A reference is never changed. Its version is the hash of everything in it, so that two people who
freeze the same units get the same version, a drift point that names a version can be computed
again in years, and a pinned reference cannot slip away under an alert.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Final

import numpy as np

from streams.profile.drift.features import BY_NAME, Feature, prediction_features
from streams.profile.drift.profile import Profile, Row
from streams.profile.drift.sketches import CategorySketch, NumericSketch, Sketch, VectorSketch

FORMAT: Final = 1
MIN_UNITS: Final = 200


class ReferenceInvalidError(ValueError):
    """A reference that cannot be made or read; says what to do."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose stream: what a reference is for.

    Parameters
    ----------
    name : str
        Tenant, dataset and modality as the profile names them.
    place : str
        Keyed hash of a site or a scanner, or "" for all of them.
    model_version : str
        Version of the embedding model: vectors of two models have nothing in common.
    """

    name: str
    place: str = ""
    model_version: str = ""


@dataclass(frozen=True)
class Reference:
    """A frozen profile; make one with :func:`freeze`."""

    scope: Scope
    since: datetime
    until: datetime
    profile: Profile = field(repr=False)

    @property
    def features(self) -> tuple[Feature, ...]:
        """What it watches."""
        return self.profile.features

    @cached_property
    def version(self) -> str:
        """Hash of everything in it, 16 hex digits."""
        return hashlib.sha256(self._canonical().encode()).hexdigest()[:16]

    @cached_property
    def seed(self) -> int:
        """Seed of all chance that belongs to this reference, below 2**32."""
        return int(self.version[:8], 16)

    def to_json(self) -> str:
        """Return the reference as JSON, its version beside it."""
        return f'{{"version":"{self.version}","reference":{self._canonical()}}}'

    def _canonical(self) -> str:
        profile = self.profile
        document = {
            "format": FORMAT,
            "scope": [self.scope.name, self.scope.place, self.scope.model_version],
            "since": self.since.astimezone(timezone.utc).isoformat(),
            "until": self.until.astimezone(timezone.utc).isoformat(),
            "features": [f.name for f in profile.features],
            "sample_size": profile.sample_size,
            "unit_count": profile.unit_count,
            "sketches": {name: _dump(sketch) for name, sketch in profile.sketches.items()},
            "sample": {rank: _dump_row(row) for rank, row in profile.sample.items()},
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Reference:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ReferenceInvalidError
            If it is of another format, watches a feature that is unknown here, or is not what its
            version says.
        """
        try:
            envelope = json.loads(text)
            document = envelope["reference"]
            if document["format"] != FORMAT:
                msg = f"this reference is of format {document['format']!r}, not {FORMAT}"
                raise ReferenceInvalidError(msg)
            profile = Profile(
                features=tuple(feature_named(name) for name in document["features"]),
                sample_size=int(document["sample_size"]),
                unit_count=int(document["unit_count"]),
                sketches={n: _load(s) for n, s in document["sketches"].items()},
                sample={rank: _load_row(row) for rank, row in document["sample"].items()},
            )
            reference = cls(
                scope=Scope(*document["scope"]),
                since=datetime.fromisoformat(document["since"]),
                until=datetime.fromisoformat(document["until"]),
                profile=profile,
            )
        except (KeyError, TypeError, IndexError, AttributeError, json.JSONDecodeError) as error:
            msg = f"not a reference of drift ({type(error).__name__}); create it again"
            raise ReferenceInvalidError(msg) from None
        if reference.version != envelope.get("version"):
            msg = "the reference was changed after it was frozen; create it again"
            raise ReferenceInvalidError(msg)
        return reference


def freeze(scope: Scope, profile: Profile, since: datetime, until: datetime) -> Reference:
    """Make a reference of a profile.

    Parameters
    ----------
    scope : Scope
        Whose it is.
    profile : Profile
        Its units; must not be changed afterwards.
    since, until : datetime
        Event time that it covers, UTC.

    Raises
    ------
    ReferenceInvalidError
        If there are fewer than :data:`MIN_UNITS` units.
    """
    if profile.unit_count < MIN_UNITS:
        msg = (
            f"{profile.unit_count} series are too few for a reference; "
            f"choose a period with {MIN_UNITS} or more"
        )
        raise ReferenceInvalidError(msg)
    return Reference(scope, since, until, profile)


def feature_named(name: str) -> Feature:
    """Return a feature of the closed list by its name.

    Raises
    ------
    ReferenceInvalidError
        If there is none.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    parts = name.split(".")
    if len(parts) >= 3 and parts[0] == "prediction":
        for feature in prediction_features(".".join(parts[1:-1])):
            if feature.name == name:
                return feature
    msg = f"no feature {name!r}; the reference was made by another version of BioDataMine"
    raise ReferenceInvalidError(msg)


def _dump(sketch: Sketch) -> dict[str, Any]:
    if isinstance(sketch, NumericSketch):
        buckets, counts = sketch.arrays()
        return {"b": buckets.tolist(), "n": counts.tolist(), "missing": sketch.missing}
    if isinstance(sketch, CategorySketch):
        return {"c": sketch.counts, "other": sketch.other, "missing": sketch.missing}
    return {
        "count": sketch.count,
        "missing": sketch.missing,
        "sums": sketch.sums.tolist(),
        "products": sketch.products.tolist(),
    }


def _load(document: dict[str, Any]) -> Sketch:
    missing = int(document["missing"])
    if "b" in document:
        counts = dict(zip(document["b"], document["n"], strict=True))
        return NumericSketch(counts, missing)
    if "c" in document:
        return CategorySketch(dict(document["c"]), int(document["other"]), missing)
    size = len(document["sums"])
    return VectorSketch(
        int(document["count"]),
        missing,
        np.array(document["sums"], dtype=np.int64),
        np.array(document["products"], dtype=np.int64).reshape(size, size),
    )


def _dump_row(row: Row) -> list[Any]:
    return [
        {"v": base64.b64encode(np.array(v, dtype="<f4").tobytes()).decode()}
        if isinstance(v, tuple)
        else v
        for v in row
    ]


def _load_row(row: list[Any]) -> Row:
    return tuple(
        tuple(np.frombuffer(base64.b64decode(v["v"]), dtype="<f4").astype(np.float64).tolist())
        if isinstance(v, dict)
        else v
        for v in row
    )
