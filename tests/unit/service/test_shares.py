"""Workers are divided between jobs fairly, by priority, within limits, and the same by whoever computes it."""

from hypothesis import given
from hypothesis import strategies as st

from optimizer.cluster import Capacity, Room
from optimizer.shares import Demand, shares

EIGHT = Capacity((Room(8, 0, 0),))


def _demand(job: int, workers: int, user: str = "ada", priority: int = 0, cpus: float = 1) -> Demand:
    return Demand(job, user, priority, workers, cpus, gpus=0)


def test_a_job_alone_gets_what_it_wants_and_no_more_than_there_is() -> None:
    assert shares([_demand(1, 3)], EIGHT, {}) == {1: 3}
    assert shares([_demand(1, 20)], EIGHT, {}) == {1: 8}


def test_equal_jobs_get_equal_parts_and_what_one_leaves_goes_to_the_others() -> None:
    assert shares([_demand(1, 20), _demand(2, 20)], EIGHT, {}) == {1: 4, 2: 4}
    assert shares([_demand(1, 20), _demand(2, 2), _demand(3, 20)], EIGHT, {}) == {1: 3, 2: 2, 3: 3}


def test_a_worker_that_takes_more_of_the_cluster_counts_for_more() -> None:
    assert shares([_demand(1, 20, cpus=2), _demand(2, 20)], EIGHT, {}) == {1: 2, 2: 4}


def test_higher_priority_is_served_first_and_every_running_job_keeps_one_worker() -> None:
    assert shares([_demand(1, 20), _demand(2, 20, priority=1)], EIGHT, {}) == {1: 1, 2: 7}
    assert shares([_demand(1, 20), _demand(2, 3, priority=1)], EIGHT, {}) == {1: 5, 2: 3}


def test_a_users_limit_counts_all_their_jobs_together() -> None:
    jobs = [_demand(1, 20), _demand(2, 20), _demand(3, 20, user="bob")]
    assert shares(jobs, EIGHT, {"ada": 3}) == {1: 2, 2: 1, 3: 5}


def test_jobs_that_the_cluster_cannot_hold_still_ask_for_one_worker_each() -> None:
    assert shares([_demand(number, 4) for number in range(10)], EIGHT, {}) == dict.fromkeys(range(10), 1)
    gpu = Demand(1, "ada", 0, 4, cpus=1, gpus=1)
    assert shares([gpu], EIGHT, {}) == {1: 1}


demands = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from("ab"), st.integers(0, 2), st.sampled_from([0.5, 1.0, 2.0, 4.0])),
    min_size=1,
    max_size=6,
)


@given(demands, st.integers(1, 32), st.one_of(st.none(), st.integers(1, 10)))
def test_shares_stay_within_wishes_limits_and_the_cluster(
    asked: list[tuple[int, str, int, float]], cpus: int, limit: int | None
) -> None:
    jobs = [_demand(number, *one) for number, one in enumerate(asked)]
    found = shares(jobs, Capacity((Room(cpus, 0, 0),)), {"a": limit})
    assert found == shares(list(reversed(jobs)), Capacity((Room(cpus, 0, 0),)), {"a": limit})
    assert all(1 <= found[job.job] <= job.workers for job in jobs)
    taken = sum(found[job.job] * job.cpus for job in jobs)
    assert taken <= cpus + 1e-6 or all(count == 1 for count in found.values()) or _least(jobs) > cpus
    held = sum(found[job.job] for job in jobs if job.user == "a")
    assert limit is None or held <= max(limit, sum(job.user == "a" for job in jobs))


def _least(jobs: list[Demand]) -> float:
    return sum(job.cpus for job in jobs)
