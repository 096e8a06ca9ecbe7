"""The global random number generators are restored whatever happens."""

import random

import numpy as np
import pytest
import torch

from lightning_saliency.callbacks import Protect
from lightning_saliency.randomness import GeneratorStates, isolated_rng


def test_generators_are_put_back_after_an_error():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    def fail():
        with isolated_rng(3):
            raise KeyError(torch.rand(1), random.random(), np.random.rand())  # noqa: NPY002

    with pytest.raises(KeyError) as first:
        fail()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002
    with pytest.raises(KeyError) as second:
        fail()
    assert first.value.args == second.value.args


def test_without_a_seed_the_generators_continue_and_are_put_back():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with isolated_rng():
        assert torch.equal(torch.rand(2), expected)
    assert torch.equal(torch.rand(2), expected)


def test_cuda_is_left_alone_unless_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    states, restored = [torch.zeros(3, dtype=torch.uint8)], []
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
    assert GeneratorStates.save().cuda is None
    with isolated_rng(0):
        pass
    assert restored == []

    def fail():
        with isolated_rng(0, cuda=True):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert restored == [states]


@pytest.fixture
def pretended_gpu(monkeypatch):
    """What was done to the generator of a GPU that is not there: its state is its seed, counted on by each draw."""
    gpu = {"state": 100, "seeds": []}

    def seed(value):
        gpu["seeds"].append(value)
        gpu["state"] = value

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: gpu["state"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda state: gpu.update(state=state))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed)
    return gpu


def test_a_seed_is_that_of_the_gpus_too_where_they_are_put_back(pretended_gpu):
    with isolated_rng(7, cuda=True):
        assert pretended_gpu["state"] == 7
    assert pretended_gpu["state"] == 100
    with isolated_rng(7):
        assert pretended_gpu["state"] == 100
    with isolated_rng(cuda=True):
        assert pretended_gpu["state"] == 100
    assert pretended_gpu["seeds"] == [7]


def test_without_a_gpu_none_is_seeded(pretended_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with isolated_rng(7, cuda=True):
        pass
    assert pretended_gpu["seeds"] == []


class OnGpu(torch.Tensor):
    """An image that says that it lies on a GPU."""

    is_cuda = True


def test_a_transform_that_draws_on_the_gpu_draws_by_the_generator_of_the_augmentation(pretended_gpu):
    def drawing(image):
        pretended_gpu["state"] += 1
        return image * 0 + pretended_gpu["state"]

    images, maps = torch.rand(2, 3, 8, 8).as_subclass(OnGpu), torch.rand(2, 8, 8)
    protect = Protect(drawing, share=0.25)
    first, again, other = (
        protect(images, maps, torch.Generator().manual_seed(seed)).pixels.max().item() for seed in (0, 0, 1)
    )
    assert first == again != other
    assert pretended_gpu["state"] == 100
