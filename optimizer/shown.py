"""Optuna's storage as Optuna Dashboard should see it: with the best trial and the constraints that we go by.

Dashboard 0.21 takes the largest value for the best, whether it keeps the job's bounds or not, and reads constraints
only in the form that Optuna had before version 5. It asks its storage for both, so its storage answers.
"""

from collections.abc import Container
from copy import copy

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from optimizer.bounds import broken

WINNER = "winner"  # the study's attribute that names the trial
_CONSTRAINTS = "constraints"  # the old form: a list


class _Shown(RDBStorage):
    """Reads what it shows otherwise than it stands in the database; writes as ever."""

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The job's winner; before there is one, the best trial so far by our own order."""
        winner = self.get_study_user_attrs(study_id).get(WINNER)
        scored = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        if not scored:
            return super().get_best_trial(study_id)
        chosen = [trial for trial in scored if trial.number == winner]
        return chosen[0] if chosen else max(scored, key=_standing)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials, with their constraints in the old form as well."""
        return [_with_list(trial) for trial in super().get_all_trials(study_id, deepcopy, states)]


def shown(storage: RDBStorage) -> RDBStorage:
    """The same storage, for a dashboard to read; give it to nothing that searches."""
    # Not made anew: its engine was made with care (see `optimizer.study`), and both are used by this process alone.
    adopted = _Shown.__new__(_Shown)
    adopted.__dict__.update(storage.__dict__)
    return adopted


def _standing(trial: FrozenTrial) -> tuple[float, int, float, int]:
    return -_beyond(trial), trial.user_attrs.get("examples", 0), sum(trial.values), -trial.number


def _with_list(trial: FrozenTrial) -> FrozenTrial:
    if _CONSTRAINTS in trial.system_attrs or not trial.constraints:
        return trial
    found = copy(trial)
    found._system_attrs = {**trial.system_attrs, _CONSTRAINTS: list(trial.constraints.values())}
    return found


def _beyond(trial: FrozenTrial) -> float:
    """By how much it breaks its bounds; the list repeats what stands under names."""
    found = copy(trial)
    found._system_attrs = {key: value for key, value in trial.system_attrs.items() if key != _CONSTRAINTS}
    return broken(found)
