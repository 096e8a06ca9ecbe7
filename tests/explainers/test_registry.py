"""Which explainer: every form means the same, and mistakes say what is allowed."""

from __future__ import annotations

import functools
import json
import pickle

import pytest
import torch
from torch import nn

from lightning_saliency.explainers import (
    CONTROL_MAPS,
    EXPLAINERS,
    SMOE,
    ExplainerSpec,
    GroupCAM,
    RandomBlobs,
    build_explainer,
    parse_explainers,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _of_four(model, layer=None):
    return GroupCAM(model, layer, groups=4)


@pytest.mark.parametrize(
    "given",
    [
        {"class_path": "group_cam", "init_args": {"groups": 4, "layer": "1"}},
        {"class_path": "lightning_saliency.explainers.GroupCAM", "init_args": {"groups": 4, "layer": "1"}},
        {"class_path": f"{__name__}._of_four", "init_args": {"layer": "1"}},
        functools.partial(GroupCAM, groups=4, layer="1"),
        functools.partial(_of_four, layer="1"),
        lambda model: GroupCAM(model, "1", groups=4),
    ],
)
def test_every_form_builds_the_same_explainer(given):
    images, expected = torch.rand(2, 3, 16, 16), GroupCAM(network(), "1", groups=4)
    for built in (ExplainerSpec.parse(given)(network()), build_explainer(given, network())):
        assert type(built) is GroupCAM
        assert torch.equal(built(images, 3), expected(images, 3))


def test_what_is_written_is_read_again():
    for name in (*EXPLAINERS, *CONTROL_MAPS):
        assert ExplainerSpec.parse(name).written() == name
    spec = ExplainerSpec.parse(functools.partial(GroupCAM, groups=4))
    assert spec.written() == {
        "class_path": "lightning_saliency.explainers.group_cam.GroupCAM",
        "init_args": {"groups": 4},
    }
    assert ExplainerSpec.parse(spec.written()) == spec == pickle.loads(pickle.dumps(spec))
    assert json.loads(json.dumps(spec.plain())) == spec.plain()


def test_options_given_and_by_default():
    spec = ExplainerSpec.parse({"class_path": "group_cam", "init_args": {"groups": 4}})
    assert [spec.option(name) for name in ("groups", "kernel_size", "model", "unknown")] == [4, 51 / 224, None, None]
    assert spec.with_defaults(groups=9, theta=10, unknown=1).init_args == {"groups": 4, "theta": 10}


def test_which_explainers_have_a_map_for_each_class():
    class_free = [name for name in (*EXPLAINERS, *CONTROL_MAPS) if not ExplainerSpec.parse(name).class_specific]
    assert class_free == ["smoe", *CONTROL_MAPS]
    assert not SMOE(network(), layers="1").class_specific
    assert not RandomBlobs(network()).class_specific
    assert ExplainerSpec.parse(lambda model: SMOE(model)).class_specific  # a function does not tell


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("groupcam", ValueError, "Allowed are smoe, grad_cam, .*random_blobs, torchcam:METHOD"),
        ("nowhere.Explainer", ValueError, "cannot be imported"),
        (
            {"class_path": "group_cam", "groups": 4},
            TypeError,
            "keys class_path, groups. Allowed are class_path",
        ),
        ({"class_path": "group_cam", "init_args": {"grups": 4}}, TypeError, "Allowed are layer, groups, theta"),
        ({"explainer": "group_cam"}, TypeError, "Allowed are class_path"),
        (4, TypeError, "of the type int"),
        (GroupCAM(nn.Identity()), TypeError, "already built"),
    ],
)
def test_mistakes_say_what_is_allowed(given, error, message):
    with pytest.raises(error, match=message):
        ExplainerSpec.parse(given)
    with pytest.raises(error, match=f"The explainer 'mine' cannot be used. .*{message}"):
        parse_explainers({"mine": given})


def test_rows_are_named_once():
    for rows in ([], ["smoe", "smoe"]):
        with pytest.raises(ValueError, match="each named once"):
            parse_explainers(rows)


class WithTensor(nn.Module):
    def __init__(self, network, factor=0.0, baseline=None):
        super().__init__()


def test_arguments_that_compare_element_by_element_are_kept():
    own = {"class_path": f"{__name__}.WithTensor", "init_args": {"factor": torch.zeros(2), "baseline": None}}
    assert list(ExplainerSpec.parse(own).init_args) == ["factor"]
