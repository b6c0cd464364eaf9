"""Let an Optuna sampler propose, seeded anew for every trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from optimizer.engines.protocol import Parameters
from optimizer.engines.seeds import seed_for
from optimizer.study import known, open_point, points
from search_spaces.domain import whole_of


@dataclass(frozen=True)
class SamplerEngine:
    """Asks a fresh sampler about an in-memory copy of the told and open points, then writes its answer whole.

    The copy holds only points of the space, so a baseline without parameters cannot empty the space that
    Optuna's samplers infer, and every point in it has the whole space. Nothing reaches the database before
    the proposal is complete. `generation_key` names the system attribute that a sampler groups its trials
    by; points without one (baselines) count as generation 0. Where the sampler does not learn (`learns`), the
    copy is empty: a draw then costs as much after ten thousand trials as after none.
    """

    study: optuna.Study
    distributions: Parameters
    seed: int
    name: str
    sampler: Callable[[int], BaseSampler]
    generation_key: str | None = None
    learns: bool = True
    recommends: bool = False
    _copies: dict[int, FrozenTrial] = field(default_factory=dict, compare=False)

    def ask(self) -> FrozenTrial:
        """Open a running trial; there is always one."""
        number = len(known(self.study))
        scratch = self._scratch(self.sampler(seed_for(self.seed, self.name, number)))
        proposal = scratch.ask(dict(self.distributions))
        for name, further in whole_of(self.distributions, proposal.params).items():
            if name not in self.distributions:
                _suggest(proposal, name, further)
        system_attrs = scratch.get_trials(deepcopy=False)[proposal.number].system_attrs
        kept = {key: value for key, value in system_attrs.items() if key == self.generation_key}
        return open_point(self.study, proposal.params, self.distributions, {"origin": "search"}, kept)

    def begin_at(self, start: Mapping[str, float]) -> None:
        """Nothing: what was told is all these engines begin with."""

    def recommend(self) -> None:
        """None: the answer of these engines is one of their trials."""

    def _scratch(self, sampler: BaseSampler) -> optuna.Study:
        scratch = optuna.create_study(directions=self.study.directions, sampler=sampler)
        if not self.learns:
            return scratch
        shared: dict[BaseDistribution, BaseDistribution] = {}  # one object per range: copies are 5x faster
        for trial in points(self.study, self.distributions, (TrialState.COMPLETE, TrialState.RUNNING)):
            copy = self._copies.get(trial.number) or self._copy(trial, shared)
            if trial.state.is_finished():
                self._copies[trial.number] = copy
            scratch.add_trial(copy)
        return scratch

    def _copy(self, trial: FrozenTrial, shared: dict[BaseDistribution, BaseDistribution]) -> FrozenTrial:
        whole = whole_of(self.distributions, trial.params)
        system_attrs = {}
        if self.generation_key is not None:
            system_attrs = {self.generation_key: trial.system_attrs.get(self.generation_key, 0)}
        return create_trial(
            state=trial.state,
            values=trial.values,
            params={name: trial.params[name] for name in whole},
            distributions={name: shared.setdefault(one, one) for name, one in whole.items()},
            system_attrs=system_attrs,
            constraints=trial.constraints,
        )


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    """Have the trial's sampler choose one more parameter."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    else:
        raise TypeError(f"`{name}` has a distribution of an unknown kind: {distribution}")
