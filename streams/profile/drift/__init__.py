"""Drift: what moved in a scope, since when, by how much, with a stated rate of false alarms.

The way of a series through this room::

    FileAnalyzed --unit_of--> Unit --DriftMonitor.add--> DriftPoint, Alert
                               |
                               +--Profile.add, freeze--> Reference --> Encoder, calibrate, make_band

:mod:`.features` is the closed list of what is watched, :mod:`.sketches` what is kept of it,
:mod:`.reference` the frozen version, :mod:`.statistics` and :mod:`.points` the view on one window,
:mod:`.detector` and :mod:`.calibrate` the online alarm, :mod:`.explain` the order of the names, and
:mod:`.monitor` all of it in event time.
"""

from __future__ import annotations

from streams.profile.drift.calibrate import Calibration, calibrate
from streams.profile.drift.channels import Encoder
from streams.profile.drift.features import FEATURES, Feature, features_for
from streams.profile.drift.monitor import Alert, DriftMonitor, MonitorSettings
from streams.profile.drift.points import Band, DriftPoint, drift_point, make_band
from streams.profile.drift.profile import Profile
from streams.profile.drift.reference import Reference, ReferenceInvalidError, Scope, freeze
from streams.profile.drift.units import Unit, unit_of

__all__ = [
    "FEATURES",
    "Alert",
    "Band",
    "Calibration",
    "DriftMonitor",
    "DriftPoint",
    "Encoder",
    "Feature",
    "MonitorSettings",
    "Profile",
    "Reference",
    "ReferenceInvalidError",
    "Scope",
    "Unit",
    "calibrate",
    "drift_point",
    "features_for",
    "freeze",
    "make_band",
    "unit_of",
]
