"""The global random number generators are restored whatever happens."""

import random

import numpy as np
import pytest
import torch

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
