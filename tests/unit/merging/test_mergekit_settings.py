"""Parameters of merge configs mean what they mean in mergekit, and models are named as there."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from merging.errors import MergeError
from merging.mergekit.methods import COUNTERPARTS
from merging.mergekit.reference import ModelReference
from merging.mergekit.settings import Setting, looked_up
from merging.methods import METHODS


def value(written: Any, tensor: str = "model.layers.0.mlp.up_proj.weight", t: float = 0.0, kind: Any = float) -> Any:
    return Setting.model_validate(written).at(tensor, t, kind)


def test_a_gradient_is_read_between_its_points() -> None:
    assert value([0, 1, 0], t=0.25) == 0.5
    assert value([0, 1, 0], t=1.0) == 0
    assert value([1.0], t=0.7) == 1.0


def test_truth_values_of_a_gradient_hold_up_to_the_next() -> None:
    assert value([True, False, True], t=0.6, kind=bool) is False
    assert value([True, False, True], t=1.0, kind=bool) is True


def test_the_first_filter_in_a_tensors_name_decides() -> None:
    written = [{"filter": "mlp", "value": 0.7}, {"filter": "up_proj", "value": 0.1}, {"value": [0.2, 0.4]}]
    assert value(written) == 0.7
    assert value(written, "model.layers.0.self_attn.q_proj.weight", t=0.5) == pytest.approx(0.3)
    assert value([{"filter": "mlp", "value": 0.7}], "lm_head.weight") is None
    assert value([{"filter": "*", "value": 0.7}], "lm_head.weight") == 0.7


def test_one_filter_may_stand_without_a_list() -> None:
    assert value({"filter": "mlp", "value": 0.7}) == 0.7


def test_numbers_may_be_text_and_truth_values_numbers() -> None:
    assert value("1e-5") == 1e-5
    assert value(1, kind=bool) is True
    assert value("true", kind=bool) is True
    assert value(True) == 1.0


@pytest.mark.parametrize(
    ("written", "kind", "said"),
    [
        ("heavy", float, "a number"),
        (0.5, bool, "true or false"),
        (2.5, int, "a whole number"),
        (".inf", float, "a num"),
    ],
)
def test_a_value_of_another_kind_is_refused(written: Any, kind: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        value(written, kind=kind)


@pytest.mark.parametrize("written", [[], [0.5, {"value": 1}], [{"value": 1, "filtre": "mlp"}], {"filter": "mlp"}])
def test_a_setting_that_is_none_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        Setting.model_validate(written)


def test_what_stands_nearer_to_the_model_goes_before() -> None:
    near = {"weight": Setting.model_validate([{"filter": "mlp", "value": 1}])}
    far = {"weight": Setting.model_validate(2)}
    assert looked_up("weight", [near, None, far], "mlp", 0, float) == 1
    assert looked_up("weight", [near, None, far], "attn", 0, float) == 2
    assert looked_up("density", [near, None, far], "attn", 0, float) is None
    with pytest.raises(MergeError, match="`weight` for `x`: must be a number, but is 'much'"):
        looked_up("weight", [{"weight": Setting.model_validate("much")}], "x", 0, float)


def test_a_model_is_a_path_a_revision_and_an_adapter() -> None:
    reference = ModelReference.model_validate("org/model@v1+org/lora@v2")
    assert (reference.model.path, reference.model.revision) == ("org/model", "v1")
    assert reference.lora is not None
    assert (reference.lora.path, reference.lora.revision) == ("org/lora", "v2")
    assert str(reference) == "org/model@v1+org/lora@v2"
    written = {"model": {"path": "org/model", "revision": "v1"}, "lora": "org/lora@v2"}
    assert ModelReference.model_validate(written) == reference


@pytest.mark.parametrize("written", ["a@b@c", "a+b+c", "", {"model": "a", "lorra": "b"}])
def test_a_model_that_cannot_be_read_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        ModelReference.model_validate(written)


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a@b+c@d@e"
    folder.mkdir()
    assert ModelReference.model_validate(str(folder)).model.path == str(folder)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_every_method_of_mergekit_has_one_of_ours_with_such_settings(name: str) -> None:
    method = COUNTERPARTS[name]
    count = method.others[0]
    shared = {one.name: one.default if one.default is not None else 0.5 for one in method.shared}
    each = {one.name: ((one.default if one.default is not None else 0.5),) * count for one in method.each}
    if "density" in each:
        each["density"] = (0.5,) * count
    call = method.call(shared, each, count)
    ours = METHODS[call.method or "linear"]
    ours.structure.model_validate(call.structure or {})
    assert len(call.row) == len(ours.coefficients(tuple(f"model{number}" for number in range(count))))


@pytest.mark.parametrize("density", [-0.1, 0.0, 1.5])
@pytest.mark.parametrize("name", ["ties", "dare_linear"])
def test_a_density_outside_its_range_is_refused(name: str, density: float) -> None:
    each = {"weight": (0.5, 0.5), "density": (0.5, density)}
    shared = {"normalize": False, "rescale": False, "lambda": 2.0, "int8_mask": False}
    with pytest.raises(MergeError, match=f"`density` must be above 0 and at most 1, but is {density:g}"):
        COUNTERPARTS[name].call(shared, each, 2)


def test_sce_selects_no_more_than_all() -> None:
    assert COUNTERPARTS["sce"].call({"select_topk": 0.0}, {}, 2).row == (0.0, 0.0)
    with pytest.raises(MergeError, match=r"`select_topk` must be from 0 .* to 1, but is 1\.5"):
        COUNTERPARTS["sce"].call({"select_topk": 1.5}, {}, 2)
