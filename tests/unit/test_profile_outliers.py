from __future__ import annotations

import numpy as np
import pytest

from streams.profile.outliers import (
    Calibration,
    OutlierReference,
    UsualFeatures,
    unlike_everything,
)
from tests.bench.clusters import Mixture


def mixture(seed: int) -> Mixture:
    return Mixture(seed, components=6, dimensions=48, intrinsic=5, factors=24)


def reference(name: str, stream: Mixture, count: int = 3000) -> OutlierReference:
    return OutlierReference([f"{name} {i}" for i in range(count)], stream.draw(count)[0])


def test_the_p_value_is_the_share_that_lies_as_far_out():
    calibration = Calibration.of(np.arange(1, 1000, dtype=np.float32))
    assert calibration.p_value(1000.0) == pytest.approx(1 / 1000)
    assert calibration.p_value(0.0) == 1.0
    assert calibration.p_value(500.0) == pytest.approx(501 / 1000)


def test_too_few_are_no_calibration():
    assert Calibration.of(np.ones(199, np.float32)).p_value(5.0) is None
    assert Calibration.of(np.ones(200, np.float32)).p_value(5.0) is not None


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_usual_images_are_called_outliers_at_the_stated_rate(alpha):
    rates = []
    for seed in range(4):
        stream = mixture(seed)
        usual = reference("usual", stream)
        values = [usual.compare(vector).p_value for vector in stream.draw(1500)[0]]
        rates.append(np.mean([value <= alpha for value in values]))
    assert 0.5 * alpha <= np.mean(rates) <= 1.5 * alpha


def test_two_questions_have_two_answers():
    here, there, nowhere = mixture(1), mixture(2), mixture(3)
    references = {"here": reference("here", here), "there": reference("there", there)}
    foreign = there.draw(200)[0]
    unlike_own = np.mean([references["here"].compare(v).p_value <= 0.01 for v in foreign])
    unlike_all = np.mean([unlike_everything(v, references).p_value <= 0.01 for v in foreign])
    assert unlike_own > 0.9
    assert unlike_all < 0.05
    strange = nowhere.draw(200)[0]
    assert np.mean([unlike_everything(v, references).p_value <= 0.01 for v in strange]) > 0.9
    said = unlike_everything(foreign[0], references)
    assert said.likest == "there"
    assert all(one.key.startswith("there") for one in said.by_reference["there"].nearest)


def test_without_a_reference_nothing_is_claimed():
    vector = mixture(1).draw(1)[0][0]
    assert unlike_everything(vector, {}).p_value is None
    small = {"small": reference("small", mixture(1), count=50)}
    assert unlike_everything(vector, small).p_value is None
    assert unlike_everything(vector, small).by_reference["small"].nearest


def test_a_reference_needs_more_than_its_neighbours():
    vectors = mixture(1).draw(10)[0]
    with pytest.raises(ValueError, match="more than 10"):
        OutlierReference([str(i) for i in range(10)], vectors)


def test_the_features_that_deviate_are_named_in_order():
    chance = np.random.default_rng(0)
    table = np.column_stack(
        (
            chance.normal(100, 10, 1000),
            np.full(1000, 512.0),
            np.where(chance.random(1000) < 0.9, np.nan, 1.0),
        )
    )
    usual = UsualFeatures(("noise", "rows", "rare"), table)
    said = usual.deviations({"noise": 140.0, "rows": 511.0, "rare": 9.0, "unknown": 3.0})
    assert [one.feature for one in said] == ["noise", "rows"]
    assert said[0].score == pytest.approx(4.0, abs=0.5)
    assert said[0].usual == pytest.approx(100, abs=2)
    assert said[1].score < -1
    assert usual.deviations({"noise": float("nan")}) == ()
