"""Statistics of calibration examples are those of the layers' own inputs and of each example's own gradient."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import VOCAB, random_llama
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from merging.errors import MergeError
from merging.statistics import (
    Grams,
    SquaredGradients,
    collect_fisher,
    collect_gram,
    gram_bytes,
    open_statistics,
    statistics_key,
    write_statistics,
)


def tokens(seed: int, rows: int = 1, length: int = 9) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def two_layers() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def loss_of(model: Any, seed: int) -> Tensor:
    ids = tokens(seed)
    loss: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def test_a_gram_matrix_is_the_mean_of_the_products_of_a_layers_inputs() -> None:
    model = two_layers()
    batches = [torch.randn(rows, 2, 4, generator=torch.Generator().manual_seed(rows)).double() for rows in (3, 7)]
    found = collect_gram(model, [{"input": batch} for batch in batches])
    inputs = torch.cat([batch.reshape(-1, 4) for batch in batches])
    hidden = torch.tanh(model[0](inputs)).detach()
    assert torch.allclose(found["0.weight"].double(), inputs.T @ inputs / 20, atol=1e-6)
    assert torch.allclose(found["2.weight"].double(), hidden.T @ hidden / 20, atol=1e-6)
    assert {one.dtype for one in found.values()} == {torch.float32}
    assert gram_bytes(model) == sum(one.nbytes for one in found.values())


def test_every_linear_layer_of_a_language_model_is_there_and_a_tied_head_is_not() -> None:
    plain, tied = (set(collect_gram(random_llama(0, tied=tied), [{"input_ids": tokens(1)}])) for tied in (False, True))
    layers = {f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in (0, 1) for part in ("gate", "up", "down")}
    layers |= {f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qkvo"}
    assert plain == layers | {"lm_head.weight"}
    assert tied == layers


def test_a_layer_of_gpt_2_is_known_to_have_its_inputs_first() -> None:
    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=8, n_head=2, n_layer=1, n_positions=16))
    with torch.no_grad(), Grams(model) as grams:
        model(input_ids=tokens(1))
    found = grams.tensors()
    assert set(found) == set(grams.inputs_first)
    assert found["transformer.h.0.mlp.c_fc.weight"].shape == (8, 8)
    assert found["transformer.h.0.mlp.c_proj.weight"].shape == (32, 32)


def test_statistics_are_collected_under_the_names_that_are_asked_for() -> None:
    model = two_layers()
    with torch.no_grad(), Grams(model, {"first": model[0].weight, "bias": model[0].bias}) as grams:
        model(torch.ones(2, 4).double())
    assert set(grams.tensors()) == {"first"}


def test_the_model_is_left_as_it_was_and_nothing_is_counted_afterwards() -> None:
    model = two_layers()
    model[0].weight.requires_grad_(False)
    with Grams(model) as grams, SquaredGradients(model) as squares:
        model(torch.ones(2, 4).double()).sum().backward()
        squares.take()
    before, fisher = grams.tensors(), squares.tensors()
    assert "0.weight" in fisher
    assert [one.requires_grad for one in model.parameters()] == [False, True, True, True]
    assert all(one.grad is None for one in model.parameters())
    model(5 * torch.ones(2, 4).double()).sum().backward()
    assert all(torch.equal(before[name], one) for name, one in grams.tensors().items())


def test_a_fisher_is_the_mean_of_each_examples_squared_gradient_and_not_the_square_of_their_sum() -> None:
    model = random_llama(0).float()
    expected: dict[str, Tensor] = {}
    for seed in range(3):
        names, parameters = zip(*model.named_parameters(), strict=True)
        for name, slope in zip(names, torch.autograd.grad(loss_of(model, seed), parameters), strict=True):
            expected[name] = expected.get(name, torch.zeros_like(slope)) + slope.square() / 3
    found = collect_fisher(model, (loss_of(model, seed) for seed in range(3)))
    assert set(found) == set(expected)
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-12) for name in found)


def test_an_example_of_several_backward_passes_is_squared_once() -> None:
    model, inputs = two_layers(), torch.ones(2, 4).double()
    inputs[1] *= 0.3
    with SquaredGradients(model) as squares:
        for row in inputs:
            model(row).sum().backward()
        squares.take()
    whole = collect_fisher(model, [model(inputs).sum()])
    assert all(torch.allclose(one, whole[name]) for name, one in squares.tensors().items())


def test_the_fisher_of_a_softmax_is_its_closed_form() -> None:
    """For p = softmax(W x), y drawn from p: F = E[p (1 - p)] x^2."""
    model = nn.Linear(3, 2, bias=False).double()
    x = torch.tensor([1.0, -2.0, 0.5]).double()
    p = torch.softmax(model(x), 0).detach()
    found = torch.zeros(2, 3)
    for answer in (0, 1):
        found += p[answer].float() * collect_fisher(model, [-torch.log_softmax(model(x), 0)[answer]])["weight"]
    assert torch.allclose(found.double(), torch.outer(p * (1 - p), x.square()), rtol=1e-5)


def test_a_model_that_nothing_ran_through_has_no_statistics() -> None:
    model = two_layers()
    with Grams(model) as grams, SquaredGradients(model) as squares:
        squares.take()
    with pytest.raises(MergeError, match="none of its 2 ran"):
        grams.tensors()
    with pytest.raises(MergeError, match="1 examples left none"):
        squares.tensors()


def test_statistics_that_are_not_finite_name_the_tensor() -> None:
    model = two_layers()
    with pytest.raises(MergeError, match=r"Gram matrix of `0\.weight`"):
        collect_gram(model, [{"input": torch.full((1, 4), torch.nan).double()}])
    with pytest.raises(MergeError, match=r"squared gradient of `0\.weight`"):
        collect_fisher(model, [model(torch.full((4,), torch.inf).double()).sum()])


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 3).T, "b": torch.ones(2)}
    file = write_statistics(tmp_path / "deep" / "gram.safetensors", "gram", "k", tensors, ("a",))
    opened = open_statistics(file)
    assert (opened.kind, opened.key, opened.names, opened.inputs_first) == ("gram", "k", ("a", "b"), ("a",))
    assert all(torch.equal(opened.tensor(name), tensor) for name, tensor in tensors.items())
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_a_file_that_is_damaged_or_something_else_is_refused(tmp_path: Path) -> None:
    file = write_statistics(tmp_path / "s.safetensors", "gram", "k", {"a": torch.ones(50)})
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(MergeError, match="collect them again"):
        open_statistics(file)
    with pytest.raises(MergeError, match="collect them again"):
        open_statistics(tmp_path / "nothing")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(MergeError, match="what statistics it holds"):
        open_statistics(tmp_path / "model.safetensors")


def test_a_key_tells_apart_kind_model_and_examples_but_not_their_order() -> None:
    key = statistics_key("gram", "f", ["a", "b"])
    assert key == statistics_key("gram", "f", ["b", "a"])
    others = [("fisher", "f", ["a", "b"]), ("gram", "g", ["a", "b"]), ("gram", "f", ["a"]), ("gram", "f", ["a,b"])]
    assert key not in [statistics_key(*one) for one in others]  # type: ignore[arg-type]


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is writing a file and never ends."""
    code = (
        "import os, sys, time, torch, merging.statistics as s\n"
        "os.replace = lambda *_: (print('writing', flush=True), time.sleep(600))\n"
        f"s.write_statistics(__import__('pathlib').Path({str(tmp_path)!r}) / 'f.safetensors', 'gram', 'k', "
        "{'a': torch.ones(9)})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


def test_a_process_killed_while_writing_leaves_no_file_of_that_name(
    tmp_path: Path, stuck: subprocess.Popen[str]
) -> None:
    assert stuck.stdout is not None
    assert stuck.stdout.readline() == "writing\n"
    os.kill(stuck.pid, signal.SIGKILL)
    stuck.wait()
    assert not (tmp_path / "f.safetensors").exists()
