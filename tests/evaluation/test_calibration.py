import numpy as np
import pytest

from tasks.evaluation import calibration


def test_calibration_by_hand() -> None:
    """Confidence 0.8 twice, right once: error |0.8 - 0.5|. Squares: 2 * 0.2 ** 2 and 2 * 0.8 ** 2."""
    scores = calibration.scores([np.array([0.8, 0.2]), np.array([0.8, 0.2])], [0, 1])
    assert scores["calibration_error"].value == pytest.approx(0.3)
    assert scores["brier"].value == pytest.approx((0.08 + 1.28) / 2)
    assert scores["brier"].baseline == 0.5
    assert calibration.probabilities(np.log([0.2, 0.6])).tolist() == pytest.approx([0.25, 0.75])
