"""The Gaussian process believes each observation as far as its error allows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from optimizer.engines.gaussian_process import Observed, best_in_cube, best_observed, proposal
from optimizer.engines.gp import variances

NONE_OPEN = np.zeros((0, 2))


@pytest.fixture(scope="module")
def observed() -> Observed:
    """A hump at (0.3, 0.6), seen exactly at 20 points."""
    points = np.random.default_rng(0).random((20, 2))
    values = -((points - [0.3, 0.6]) ** 2).sum(axis=1)
    return Observed(points, values, np.full(20, 1e-6), np.zeros((20, 0)))


def test_the_answer_in_the_cube_is_the_peak(observed: Observed) -> None:
    assert best_in_cube(observed, seed=0) == pytest.approx([0.3, 0.6], abs=0.05)


def test_a_high_value_is_believed_as_far_as_its_error_allows(observed: Observed) -> None:
    worst = int(observed.values.argmin())
    values = observed.values.copy()
    values[worst] = values.max() + 0.2
    for error, believed in ((0.001, True), (0.5, False)):
        noise = observed.variances.copy()  # type: ignore[union-attr]
        noise[worst] = error**2
        found = best_observed(replace(observed, values=values, variances=noise), seed=0)
        assert (found == observed.points[worst]).all() == believed


def test_a_proposal_keeps_away_from_what_is_open(observed: Observed) -> None:
    alone = proposal(observed, NONE_OPEN, seed=1)
    beside = proposal(observed, alone[None, :], seed=1)
    assert np.abs(beside - alone).max() > 1e-3


def test_a_proposal_belongs_to_its_seed_and_disturbs_no_other_draw(observed: Observed) -> None:
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    first = proposal(observed, NONE_OPEN, seed=1)
    assert torch.equal(torch.rand(3), undisturbed)
    assert (proposal(observed, NONE_OPEN, seed=1) == first).all()


def test_under_a_bound_the_answer_keeps_it(observed: Observed) -> None:
    bounded = replace(observed, beyond=0.5 - observed.points[:, :1])  # the hump is on the wrong side
    assert best_observed(bounded, seed=0)[0] >= 0.5
    assert best_observed(observed, seed=0)[0] < 0.5
    impossible = replace(observed, beyond=1.5 - observed.points[:, :1])
    assert best_observed(impossible, seed=0)[0] == pytest.approx(observed.points[:, 0].max(), abs=0.1)


def test_a_batch_without_a_mistake_is_not_free_of_error() -> None:
    perfect, usual, whole = variances([0.0, 0.05, 0.01], [64, 64, 512])
    assert 0 < perfect < usual
    assert whole < usual
    assert usual == pytest.approx(0.05**2, rel=0.3)
