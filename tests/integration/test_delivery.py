"""What was written can be tried out and pushed, and what cannot be is refused before any work."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from optimizer.delivery import Delivery
from optimizer.errors import InputError, JobFailed
from tests.integration.hub_stub import Hub, hub
from tests.integration.small_job import Shop, make_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Somebody is logged in to a Hub on this machine."""
    import huggingface_hub.constants as constants
    from huggingface_hub import HfApi

    with hub() as found:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        somebody = HfApi(endpoint=found.address, token=found.token)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: somebody)
        yield found


def nothing(_: str) -> None:
    """Progress that nobody reads."""


def test_a_model_that_loads_writes_a_few_words(shop: Shop) -> None:
    (said,) = Delivery(smoke=True).carry_out(shop.models / "base", nothing)
    assert said.startswith("smoke: ")


def test_a_model_with_a_missing_weight_is_told_by_its_name(shop: Shop, tmp_path: Path) -> None:
    broken = shutil.copytree(shop.models / "base", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JobFailed, match=r"missing keys: .*model\.norm\.weight"):
        Delivery(smoke=True).carry_out(broken, nothing)


def test_a_model_of_nan_does_not_pass(shop: Shop, tmp_path: Path) -> None:
    broken = shutil.copytree(shop.models / "base", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JobFailed, match="finite"):
        Delivery(smoke=True).carry_out(broken, nothing)


def test_a_tokenizer_beyond_the_embeddings_does_not_pass(shop: Shop, tmp_path: Path) -> None:
    broken = shutil.copytree(shop.models / "base", tmp_path / "broken")
    content = json.loads((broken / "tokenizer.json").read_text())
    content["model"]["vocab"] = {token: number + 5000 for token, number in content["model"]["vocab"].items()}
    content["added_tokens"] = []
    (broken / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(JobFailed, match="every token must have a row of the embeddings"):
        Delivery(smoke=True).carry_out(broken, nothing)


@pytest.mark.parametrize(
    ("file", "said"),
    [("tokenizer_config.json", "tokenizer does not load"), ("model.safetensors", "cannot load it")],
)
def test_a_file_that_a_library_stumbles_over_fails_the_smoke_test_with_a_reason(
    file: str, said: str, shop: Shop, tmp_path: Path
) -> None:
    broken = shutil.copytree(shop.models / "base", tmp_path / "broken")
    (broken / file).write_text("[]")
    with pytest.raises(JobFailed, match=said):
        Delivery(smoke=True).carry_out(broken, nothing)


def test_a_hub_that_cannot_be_reached_is_told_before_any_work_and_after(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants
    from huggingface_hub import HfApi

    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        nowhere = HfApi(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}", token="hf_somebody")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: nowhere)
        with pytest.raises(InputError, match="the Hub does not let you in"):
            Delivery(push="someone/merged").check()
        with pytest.raises(JobFailed, match="The model is whole in"):
            Delivery(push="someone/merged").carry_out(shop.models / "base", nothing)


def test_a_folder_is_pushed_whole_to_a_private_repository(shop: Shop, online: Hub) -> None:
    delivery = Delivery(push="someone/merged")
    delivery.check()
    (said,) = delivery.carry_out(shop.models / "base", nothing)
    assert "someone/merged" in said
    there = online.repositories["someone/merged"]
    assert there["model.safetensors"] == (shop.models / "base" / "model.safetensors").read_bytes()
    assert {file.name for file in (shop.models / "base").iterdir()} <= there.keys()
    assert online.private["someone/merged"]


def test_everybody_sees_only_what_was_said_to_be_public(shop: Shop, online: Hub) -> None:
    Delivery(push="someone/merged", public=True).carry_out(shop.models / "base", nothing)
    assert not online.private["someone/merged"]


def test_what_is_there_already_is_not_written_over(online: Hub) -> None:
    online.repositories["someone/taken"], online.private["someone/taken"] = {"model.safetensors": b"1"}, False
    with pytest.raises(InputError, match=r"must be new or empty, but holds 1 files, first model\.safetensors"):
        Delivery(push="someone/taken").check()


def test_who_is_not_let_in_hears_it_before_any_work(online: Hub) -> None:
    online.token = "hf_other"
    with pytest.raises(InputError, match="hf auth login"):
        Delivery(push="someone/merged").check()


def test_a_push_that_fails_says_where_the_model_is(shop: Shop, online: Hub) -> None:
    online.fails = True
    with pytest.raises(JobFailed, match="The model is whole in"):
        Delivery(push="someone/merged").carry_out(shop.models / "base", nothing)


@pytest.mark.parametrize(
    ("delivery", "said"),
    [(Delivery(public=True), "--push-to-hub"), (Delivery(push="nameless"), "owner/model")],
)
def test_options_that_make_no_sense_are_refused(delivery: Delivery, said: str) -> None:
    with pytest.raises(InputError, match=said):
        delivery.check()
