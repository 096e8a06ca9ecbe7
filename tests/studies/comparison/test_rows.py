"""The rows of a comparison: each of its own explainer, all in one precision, of images that show something."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lightning_saliency.explainers import GradCAM
from lightning_saliency.explainers.mask_scoring import precisions
from lightning_saliency.studies import CellError, MetricConfig, StaleResultsError
from tests.studies.comparison.test_comparison import GRAD_CAM, SIDE, Net, compare, detection_data, results

IMAGES = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
RISE = {"class_path": "rise", "init_args": {"masks": 8, "grid": 3, "fast": True}}


def test_functions_that_look_alike_have_rows_of_their_own():
    def by(layer):
        return lambda network: GradCAM(network, layer=layer)

    made = compare(Net(), IMAGES, {"early": by("1"), "late": by("4")}, ["drop"]).rows["Net"]
    for name, layer in (("early", "1"), ("late", "4")):
        named = {name: {"class_path": "grad_cam", "init_args": {"layer": layer}}}
        alone = compare(Net(), IMAGES, named, ["drop"]).rows["Net"][name]
        assert [row["map"] for row in made[name]] == [row["map"] for row in alone]


def test_many_networks_are_compared_in_one_process():
    networks = {f"net {number}": Net(number) for number in range(12)}
    explainers = {f"{seed}": {"class_path": "random", "init_args": {"seed": seed}} for seed in range(6)}
    comparison = compare(networks, IMAGES, explainers, ["drop"], chunk=2, resamples=5)
    assert [len(rows) for methods in comparison.rows.values() for rows in methods.values()] == [4] * 72


def test_all_cells_are_in_the_precision_of_the_first(tmp_path, monkeypatch):
    """Another process, or this one at another time, finds another precision to be the fastest."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    options = {
        "explainers": {"rise": RISE, "cam": GRAD_CAM},
        "metrics": MetricConfig(steps=4, precision="native"),
        "output": str(tmp_path),
        "chunk": 2,
        "resamples": 20,
    }
    monkeypatch.setattr(precisions, "_time_in_bf16", lambda: 0.5)
    first = compare(Net(), IMAGES, **options)
    assert "in bf16, the device's fastest precision." in first.caption
    cells = sorted((tmp_path / "cells").glob("*.json"))
    assert {json.loads(cell.read_text())["fingerprint"]["native precision"] for cell in cells} == {"bf16"}
    monkeypatch.setattr(precisions, "_time_in_bf16", lambda: 2.0)
    for cell in cells[:3]:
        cell.unlink()
    assert results(compare(Net(), IMAGES, **options)) == results(first)
    # The one that was found is lost: the others are of another.
    for kept in (tmp_path / "costs").glob("precision-*.json"):
        kept.unlink()
    with pytest.raises(StaleResultsError, match="the result of other native precision"):
        compare(Net(), IMAGES, **options)
    # Where nothing depends on it, nothing is stale.
    exact = {**options, "metrics": MetricConfig(steps=4), "explainers": {"cam": GRAD_CAM}}
    other = tmp_path / "exact"
    compare(Net(), IMAGES, **{**exact, "output": str(other)})
    found = [json.loads(cell.read_text())["fingerprint"]["native precision"] for cell in other.glob("cells/*.json")]
    assert found == [None] * 2


def test_the_caption_names_every_machine(tmp_path):
    options = {"explainers": ["random"], "metrics": ["drop"], "output": str(tmp_path), "chunk": 2, "resamples": 20}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert "Times on cpu" in compare(Net(), IMAGES, **options).caption
        old, second = sorted((tmp_path / "cells").glob("*.json"))
        second.unlink()
        torch.set_num_threads(2)
        caption = compare(Net(), IMAGES, **options).caption
    finally:
        torch.set_num_threads(threads)
    assert ", 1 thread) and cpu (" in caption
    assert ", 2 threads). Intervals" in caption
    record = json.loads(old.read_text())
    del record["result"]["machine"]
    old.write_text(json.dumps(record, indent=1))
    assert "Times on a machine that was not noted and cpu (" in compare(Net(), IMAGES, **options).caption


def test_the_caption_says_whose_seconds_are_of_the_faster_copy():
    options = {"metrics": ["drop"], "resamples": 20}
    fast = {"class_path": "rise", "init_args": {"masks": 2, "fast": True}}
    text = "Seconds of rise are of a faster copy of the network"
    assert text in compare(Net(), IMAGES, explainers={"rise": fast, "cam": GRAD_CAM}, **options).caption
    # Nothing is mixed here.
    assert "faster copy" not in compare(Net(), IMAGES, explainers={"rise": fast}, **options).caption
    assert "faster copy" not in compare(Net(), IMAGES, explainers={"cam": GRAD_CAM}, **options).caption


def test_a_network_of_one_logit_has_two_classes():
    network = nn.Sequential(*list(Net())[:-1], nn.Linear(32, 1))
    rows = compare(network, IMAGES, ["random"], ["drop"], targets=[0, 1, 1, 0]).rows["Sequential"]["random"]
    assert [row["target"] for row in rows] == [0, 1, 1, 0]
    assert {row["classes"] for row in rows} == {2}
    with pytest.raises(ValueError, match=r"classes \[2\], but Sequential has 2: 0 to 1"):
        compare(network, IMAGES, ["random"], ["drop"], targets=[0, 1, 2, 0])


def test_a_block_of_images_without_objects_ends_nothing():
    empty = (IMAGES[0], {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)})
    comparison = compare(Net(), [empty, *detection_data(2), empty], ["random"], ["ebpg", "drop"], chunk=1)
    assert len(comparison.rows["Net"]["random"]) == 3
    assert comparison.caption.startswith("2 images, 3 pairs of image and class (2 images without a class left out).")


class Unstable(nn.Sequential):
    """A network that gives NaN where all pixels are hidden."""

    def forward(self, images):
        hidden = images.flatten(1).eq(0).float().mean(1, keepdim=True) > 0.5
        return super().forward(images).masked_fill(hidden, float("nan"))


def test_a_score_that_is_not_a_number_is_named():
    with pytest.raises(CellError, match="Got drop=nan for image 0 with precision=None and score='softmax'"):
        compare(Unstable(*Net()), IMAGES, ["random"], ["drop"])
