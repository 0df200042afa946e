"""Kill -9 of the gateway alone; ``biodatamine bench gateway_kill`` does it more often."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_gateway import GatewaySettings
from tests.support.dcmtk import missing_tools
from tests.support.kills import KilledGateway

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(missing_tools()), reason="apt-get install dcmtk"),
]

_HAS_PATHS = "dicom_receive_path" in GatewaySettings.model_fields
RECEIVE_PATHS = ("native", "pynetdicom") if _HAS_PATHS else ("pynetdicom",)


@pytest.mark.parametrize("receive_path", RECEIVE_PATHS)
def test_kill_9_at_random_moments_of_a_push(tmp_path: Path, receive_path: str) -> None:
    killed = KilledGateway(
        tmp_path,
        seed=4,
        instances=90,
        settings={"BIODATAMINE_DICOM_RECEIVE_PATH": receive_path},
    )
    report = killed.run(kills=3)
    print("\n".join(report.kills))
    assert report.sent == 4 * 90
    # The first push is undisturbed; without kills inside the others this would prove nothing.
    assert 90 < report.acknowledged < report.sent
    assert report.missing == set()
    assert report.unrecorded == set()
    assert report.broken == set()
    assert (report.conflicts, report.orphans) == (0, 0)
