"""A Gaussian process over the unit cube that knows how uncertain each observation is.

Matérn 5/2 with a length per dimension, whose prior grows with the root of the number of dimensions (Hvarfner et al.
2024, Vanilla Bayesian Optimization Performs Great in High Dimensions); proposals by noisy expected improvement (Letham
et al. 2019, in the logarithmic form of Ament et al. 2023, Unexpected Improvements to Expected Improvement). This file
is BoTorch's home. Not handled: several objectives.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import PosteriorMean
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.objective import GenericMCObjective
from botorch.fit import fit_gpytorch_mll
from botorch.models.gp_regression import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from botorch.models.transforms.outcome import Standardize
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from botorch.optim.optimize import optimize_acqf
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.sampling import manual_seed
from gpytorch.mlls import ExactMarginalLogLikelihood
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

SAMPLES, RESTARTS, RAW = 128, 2, 64  # of the posterior; of the climb on the acquisition, and the points it picks from
STEPS = 100  # of one climb
MARGIN = 0.1  # of a bound's spread: where the best lies beyond it, a point on its very edge breaks it every other time


@dataclass(frozen=True)
class Observed:
    """What is known: `points` `[n, d]` in the unit cube, `values` `[n]`, larger better, n at least 1.

    `variances` `[n]` are those of the values' errors, None where one for all is to be inferred. `beyond` `[n, c]` says
    by how much each of c bounds is broken, 0 or less where it is kept; their noise is inferred.
    """

    points: Array
    values: Array
    variances: Array | None
    beyond: Array


def proposal(observed: Observed, pending: Array, seed: int) -> Array:
    """The point `[d]` with the largest expected improvement over the best of the observed and `pending` `[m, d]`.

    Improvement is over the best by the model, not by luck, and where bounds are kept.
    """
    with _quiet(seed):
        gaussians = _fitted(observed)
        bounds = range(1, len(gaussians))
        acquisition = qLogNoisyExpectedImprovement(
            ModelListGP(*gaussians) if bounds else gaussians[0],
            _tensor(observed.points),
            SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed),
            objective=GenericMCObjective(_first) if bounds else None,
            constraints=[_within(place, MARGIN * observed.beyond[:, place - 1].std()) for place in bounds] or None,
            X_pending=_tensor(pending) if len(pending) else None,
        )
        return _highest(acquisition, observed.points.shape[1], seed)


def best_in_cube(observed: Observed, seed: int) -> Array:
    """The point `[d]` of the cube with the highest posterior mean; bounds are not looked at."""
    with _quiet(seed):
        return _highest(PosteriorMean(_fitted(observed)[0]), observed.points.shape[1], seed)


def best_observed(observed: Observed, seed: int) -> Array:
    """The observed point `[d]` with the highest posterior mean; under bounds of those that keep them by the model.

    Where none keeps them it is the one that breaks them least in all.
    """
    with _quiet(seed):
        points = _tensor(observed.points)
        value, *beyond = (_means(gaussian, points) for gaussian in _fitted(observed))
        broken = np.sum([np.maximum(one, 0.0) for one in beyond], axis=0) if beyond else np.zeros(len(points))
        best: Array = observed.points[np.lexsort((-value, broken))[0]]
        return best


def sobol(dimensions: int, number: int, seed: int) -> Array:
    """Point `number` of the scrambled Sobol sequence of that seed."""
    sequence = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    last: Array = sequence.draw(number + 1, dtype=torch.float64)[-1].numpy()
    return last


def _fitted(observed: Observed) -> list[SingleTaskGP]:
    """That of the values, and one for each bound."""
    first = _gaussian(observed.points, observed.values, observed.variances)
    return [first, *(_gaussian(observed.points, column, None) for column in observed.beyond.T)]


def _gaussian(points: Array, values: Array, variances: Array | None) -> SingleTaskGP:
    gaussian = SingleTaskGP(
        _tensor(points),
        _tensor(values)[:, None],
        None if variances is None else _tensor(variances)[:, None],
        covar_module=get_covar_module_with_dim_scaled_prior(points.shape[1], use_rbf_kernel=False),
        outcome_transform=Standardize(1),
    )
    fit_gpytorch_mll(ExactMarginalLogLikelihood(gaussian.likelihood, gaussian))
    return gaussian


def _highest(acquisition: AcquisitionFunction, dimensions: int, seed: int) -> Array:
    cube = torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(1, dimensions)
    options: dict[str, Any] = {"seed": seed, "maxiter": STEPS, "sample_around_best": True}
    found, _ = optimize_acqf(acquisition, cube, q=1, num_restarts=RESTARTS, raw_samples=RAW, options=options)
    best: Array = found[0].numpy()
    return best


def _means(gaussian: SingleTaskGP, points: Tensor) -> Array:
    means: Array = gaussian.posterior(points).mean[:, 0].detach().numpy()
    return means


def _first(samples: Tensor, X: Tensor | None = None) -> Tensor:  # noqa: ARG001, N803 - named by BoTorch
    return samples[..., 0]


def _within(place: int, margin: float) -> Callable[[Tensor], Tensor]:
    return lambda samples: samples[..., place] + margin


def _tensor(values: Array) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """BoTorch draws from torch's own generator too: seeded here, and left as it was. Its advice is not for users."""
    with manual_seed(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
