"""Texts of callables: equal ones have the same in every process, different ones do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_saliency.explainers import ExplainerSpec, GradCAM, GroupCAM
from lightning_saliency.explainers.callables import callable_text
from lightning_saliency.explainers.registry import plain_value
from tests.paths import ROOT


def of_layer(layer: Any) -> Callable[..., Any]:
    return lambda model: GradCAM(model, layer=layer)


def of_default(layer: Any) -> Callable[..., Any]:
    def explain(model, layer=layer):
        return GradCAM(model, layer)

    return explain


def of_keyword(layer: Any) -> Callable[..., Any]:
    def explain(model, *, layer=layer):
        return GradCAM(model, layer)

    return explain


def inside(layer: Any) -> Callable[..., Any]:
    """A function inside a function."""
    return lambda model: (lambda: GradCAM(model, layer))()


def through_itself(layer: Any) -> Callable[..., Any]:
    def explain(model, depth=3):
        return explain(model, depth - 1) if depth else GradCAM(model, layer)

    return explain


class Reader:
    def __init__(self, key: Any) -> None:
        self.key = key

    def __call__(self, returned: Any) -> Any:
        return returned[self.key]

    def read(self, returned: Any) -> Any:
        return returned[self.key]


MAKERS: list[Callable[[Any], Any]] = [
    *(of_layer, of_default, of_keyword, inside, through_itself),
    *(Reader, lambda key: Reader(key).read, lambda key: partial(Reader(key).read)),
    lambda key: of_layer(partial(lambda key, returned: returned[key], key)),
]
HELD: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
    (lambda: "1", lambda: "3"),
    (lambda: 1, lambda: True),
    (lambda: {"a": [1, (2, None)]}, lambda: {"a": [1, (2, 3)]}),
    (lambda: {"a", "b", "c"}, lambda: {"a", "b", "d"}),
    (lambda: torch.ones(3, dtype=torch.bfloat16), lambda: torch.zeros(3, dtype=torch.bfloat16)),
    (lambda: np.arange(3), lambda: np.arange(1, 4)),
    (lambda: torch.float32, lambda: torch.float16),
    (lambda: GradCAM, lambda: GroupCAM),
    (lambda: F.relu, lambda: torch.sigmoid),
    (lambda: of_layer("1"), lambda: of_layer("3")),
    (lambda: fixed(nn.Linear(2, 3), 0.5), lambda: fixed(nn.Linear(2, 3), 0.25)),
    (lambda: fixed(nn.Linear(2, 2), 0.5), lambda: fixed(nn.Conv1d(2, 2, 1), 0.5)),
]


def fixed(module: nn.Module, value: float) -> nn.Module:
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("one", "other"), HELD)
def test_what_a_callable_holds_tells_it_from_another(make, one, other):
    first, same, second = (json.dumps(plain_value(make(held()))) for held in (one, one, other))
    assert first == same != second


def written(source: str, **names: Any) -> Callable[..., Any]:
    """The last value of some code, written anew; it is found nowhere."""
    exec(compile(source, "<test>", "exec"), names)
    return names["function"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("function = lambda o: o[0]", "function = lambda o: o[1]"),
        ("function = lambda o: o.logits", "function = lambda o: o.aux"),
        ("function = lambda a: a", "function = lambda *a: a"),
        ("def function(o, k=1): return o", "def function(o, m=1): return o"),
        ("function = lambda o: [x for x in o if x in {'a', 'b'}]", "function = lambda o: [x for x in o if x in {'a'}]"),
        ("function = lambda o: (lambda x: x + 1)(o)", "function = lambda o: (lambda x: x + 2)(o)"),
        ("k = 1\nfunction = lambda o: (lambda x: x + k)(o)", "k = 2\nfunction = lambda o: (lambda x: x + k)(o)"),
        (
            "def own(o): return o\ndef function(o): return own(o)",
            "def own(o): return -o\ndef function(o): return own(o)",
        ),
        ("import math as m\nfunction = lambda o: m.pow(o, 2)", "import torch as m\nfunction = lambda o: m.pow(o, 2)"),
    ],
)
def test_code_and_the_globals_that_it_names(one, other):
    texts = [callable_text(written(source, __name__="__main__")) for source in (one, "\n\nunused = 3\n" + one, other)]
    assert texts[0] == texts[1] != texts[2]


def test_what_the_path_says_keeps_its_text():
    assert callable_text(GradCAM) == "lightning_saliency.explainers.cam.GradCAM"
    assert callable_text(F.relu) == "torch.nn.functional.relu"
    assert callable_text(torch.sigmoid) == "torch._VariableFunctionsClass.sigmoid"
    assert callable_text(of_layer) == f"{__name__}.of_layer"
    # A notebook's functions keep their names while their code changes.
    in_notebook = written("def function(o): return o", __name__="__main__")
    assert callable_text(in_notebook).startswith("__main__.function#")
    assert callable_text(of_layer("1")).startswith(f"{__name__}.of_layer.<locals>.<lambda>#")


def test_what_cannot_be_pickled_is_known_by_its_class():
    running = (number for number in range(3))
    assert isinstance(running, types.GeneratorType)
    assert callable_text(of_layer(running)) == callable_text(of_layer(number for number in range(9)))


def texts_here() -> list[str]:
    return [json.dumps(plain_value(make(one()))) for make in MAKERS for one, _ in HELD]


def test_texts_are_the_same_in_every_process():
    """Where hashes, and with them the order of sets, and addresses are other ones."""
    code = f"import json; from {__name__} import texts_here; print(json.dumps(texts_here()))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(process.stdout.splitlines()[-1]) == texts_here()


def test_explainers_that_differ_in_what_they_hold_have_other_fingerprints():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    given = [
        of_layer("1"),
        of_layer("3"),
        partial(GradCAM, output=lambda o: o[0]),
        partial(GradCAM, output=lambda o: o[1]),
    ]
    plain = [ExplainerSpec.parse(one).plain() for one in given]
    assert len({json.dumps(one) for one in plain}) == 4
    assert ExplainerSpec.parse("grad_cam").plain() == {"class_path": "grad_cam", "init_args": {}}
    assert ExplainerSpec.parse(f"{__name__}.of_layer").plain() == ExplainerSpec.parse(of_layer).plain()
    # The layers are equal, and their names are not.
    for options in ({"layer": network[1]}, {"layer": (network[1], network[3])}):
        with pytest.raises(ValueError, match=r"Got a module as layer of .*GradCAM\. Allowed .* give the module's name"):
            ExplainerSpec.parse(partial(GradCAM, **options)).plain()
    assert "ReLU" in str(ExplainerSpec.parse(partial(GradCAM, layer=network[1])))
