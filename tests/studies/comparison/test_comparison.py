"""The comparison: each number against a literal recomputation, resuming, refusing what is stale."""

from __future__ import annotations

import csv
import functools
import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from lightning_saliency.explainers import Explainer, GradCAM, build_explainer
from lightning_saliency.explainers.mask_scoring import precisions
from lightning_saliency.metrics import base as metrics_base
from lightning_saliency.scales.find import find_scales
from lightning_saliency.studies import MetricConfig, StaleResultsError, run_comparison
from lightning_saliency.studies.comparison.results import decoded_map
from lightning_saliency.studies.passes import counted_passes

SIDE, STEPS = 10, 5


class Net(nn.Sequential):
    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))


class Interrupted(Explainer):
    """Grad-CAM that is killed at its n-th call."""

    calls = 0
    die_at = None

    def __init__(self, model):
        super().__init__(model)
        self.inner = build_explainer("grad_cam", model, layer="4")

    def _explain(self, images, targets):
        type(self).calls += 1
        if type(self).calls == type(self).die_at:
            raise KeyboardInterrupt
        return self.inner(images, targets)


@pytest.fixture
def interrupted():
    Interrupted.calls, Interrupted.die_at = 0, None
    return Interrupted


def detection_data(count=5):
    generator = torch.Generator().manual_seed(1)
    data = []
    for number in range(count):
        image = torch.randn(3, SIDE, SIDE, generator=generator)
        labels, boxes = [number % 4], [[1.0, 2.0, 6.0, 7.0]]
        if number % 2:
            labels += [(number + 1) % 4, number % 4]
            boxes += [[0.0, 0.0, 4.0, 3.0], [7.0, 7.0, 10.0, 9.0]]
        data.append((image, {"labels": torch.tensor(labels), "boxes": torch.tensor(boxes)}))
    return data


GRAD_CAM = {"class_path": "grad_cam", "init_args": {"layer": "4"}}


def compare(models, data, explainers, metrics, **options):
    return run_comparison(
        models=models, data=data, explainers=explainers, metrics=metrics, **{"progress": False, **options}
    )


def literal_scores(model, image, target, saliency, boxes):
    """Everything from the papers' definitions, pixel by pixel."""

    def probability(shown):
        logits = model(shown[None])[0].tolist()
        exponentials = [math.exp(value) for value in logits]
        return exponentials[target] / sum(exponentials)

    pixels = [(y, x) for y in range(SIDE) for x in range(SIDE)]
    order = sorted(pixels, key=lambda at: -float(saliency[at]))
    inside = {
        (y, x) for y, x in pixels if any(x1 < x + 1 and x < x2 and y1 < y + 1 and y < y2 for x1, y1, x2, y2 in boxes)
    }
    energy = sum(float(saliency[at]) for at in pixels)
    top = set(order[: round(0.2 * len(pixels))])
    kept = torch.zeros_like(image)
    for y, x in order[: round(0.15 * len(pixels))]:
        kept[:, y, x] = image[:, y, x]
    before, after = probability(image), probability(kept)
    curves = {}
    for name in ("insertion", "deletion"):
        start, end = (torch.zeros_like(image), image) if name == "insertion" else (image, torch.zeros_like(image))
        values = []
        for step in range(STEPS + 1):
            shown = start.clone()
            for y, x in order[: round(step * len(pixels) / STEPS)]:
                shown[:, y, x] = end[:, y, x]
            values.append(probability(shown))
        curves[name] = sum((a + b) / 2 for a, b in pairwise(values)) / STEPS
    peak = order[0]
    near = [at for at in inside if math.dist(at, peak) <= 2]
    return {
        "ebpg": sum(float(saliency[at]) for at in inside) / energy,
        "miou": len(top & inside) / len(top | inside),
        "bbox": len(set(order[: len(inside)]) & inside) / len(inside),
        "pointing_0": float(peak in inside),
        "pointing_2": float(bool(near)),
        "drop": max(0.0, before - after) / before,
        "increase": float(after > before),
        "insertion": curves["insertion"],
        "deletion": curves["deletion"],
        "overall": curves["insertion"] - curves["deletion"],
    }


METRICS = MetricConfig(tolerances=(0, 2), steps=STEPS, curve_fill="zero")


@torch.no_grad()
def test_every_number_equals_a_literal_recomputation():
    model, data = Net().eval(), detection_data()
    comparison = run_comparison(
        models=model,
        data=data,
        explainers={"grad_cam": GRAD_CAM, "random": None},
        metrics=METRICS,
        progress=False,
    )
    for name, options in (("grad_cam", {"layer": "4"}), ("random", {})):
        literal, classes = [], []
        for image, annotation in data:
            for label in dict.fromkeys(annotation["labels"].tolist()):
                boxes = annotation["boxes"][annotation["labels"] == label].tolist()
                if name == "random":
                    from lightning_saliency.explainers.controls import RandomMap

                    explainer = RandomMap(model)
                else:
                    explainer = build_explainer(name, model, **options)
                literal.append(literal_scores(model, image, label, explainer(image[None], label)[0], boxes))
                classes.append(label)
        for key in literal[0]:
            values = [100 * scores[key] for scores in literal]
            if key.startswith("pointing"):
                of_class = {label: [v for v, c in zip(values, classes, strict=True) if c == label] for label in classes}
                expected = sum(sum(one) / len(one) for one in of_class.values()) / len(of_class)
            else:
                expected = sum(values) / len(values)
            estimate = comparison.estimates["Net"][name][key]
            assert estimate.value == pytest.approx(expected, rel=1e-4, abs=1e-4), (name, key)
            assert estimate.count == 7
            assert estimate.low <= estimate.value + 1e-9
            assert estimate.high >= estimate.value - 1e-9
        rows = comparison.rows["Net"][name]
        assert [row["target"] for row in rows] == classes
    passes = comparison.estimates["Net"]
    assert passes["grad_cam"]["passes"].value == 1
    assert passes["random"]["passes"].value == 0
    assert passes["grad_cam"]["seconds"].value > 0


def test_differences_are_paired_by_image():
    model, data = Net().eval(), detection_data()
    explainers = {
        "grad_cam": {"class_path": "grad_cam", "init_args": {"layer": "4"}},
        "random": None,
        "random again": "random",
    }
    pairs = [("grad_cam", "random"), ("random", "random again")]
    comparison = run_comparison(
        models=model, data=data, explainers=explainers, metrics=METRICS, pairs=pairs, progress=False
    )
    means, found = comparison.estimates["Net"], comparison.differences().values["Net"]
    assert list(found) == ["grad_cam − random", "random − random again"]
    for key, estimate in found["grad_cam − random"].items():
        assert estimate.value == pytest.approx(means["grad_cam"][key].value - means["random"][key].value, abs=1e-9)
        assert estimate.count == 7
    overall = found["grad_cam − random"]["overall"]
    assert overall.low < overall.high
    # The same scores: paired, nothing is left of their spread.
    assert all((one.low, one.value, one.high) == (0, 0, 0) for one in found["random − random again"].values())
    assert "| random − random again | 0.00 [0.00–0.00]" in str(comparison)
    with pytest.raises(ValueError, match=r"pairs=\[\['grad_cam', 'rise'\]\]. Allowed are pairs of grad_cam"):
        run_comparison(
            models=model,
            data=data,
            explainers=explainers,
            metrics=METRICS,
            pairs=[("grad_cam", "rise")],
            progress=False,
        )


def test_half_precision_touches_the_curves_alone_and_hardly():
    model, data = Net().eval(), detection_data()
    explainers = {"grad_cam": GRAD_CAM}
    exact = compare(model, data, explainers, METRICS).rows["Net"]["grad_cam"]
    coarse = run_comparison(
        models=model, data=data, explainers=explainers, metrics=replace(METRICS, precision="bf16"), progress=False
    )
    rows = zip(exact, coarse.rows["Net"]["grad_cam"], strict=True)
    for row, other in ((one["scores"], two["scores"]) for one, two in rows):
        for key in ("insertion", "deletion", "overall"):
            assert other[key] != row[key]
            assert other[key] == pytest.approx(row[key], abs=1.0)
        assert {key: other[key] for key in ("drop", "increase", "ebpg")} == {
            key: row[key] for key in ("drop", "increase", "ebpg")
        }
    assert "softmax scores in bf16." in str(coarse)


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_native_precision_is_that_of_the_processor(monkeypatch, supported, dtype):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(precisions, "_time_in_bf16", lambda: 0.5)
    copied = []
    own = metrics_base.fast_inference
    monkeypatch.setattr(metrics_base, "fast_inference", lambda *given: copied.append(own(*given)) or copied[-1])
    model, data = Net().eval(), detection_data()
    exact = compare(model, data, {"grad_cam": GRAD_CAM}, METRICS).rows["Net"]["grad_cam"]
    assert not copied
    native = run_comparison(
        models=model,
        data=data,
        explainers={"grad_cam": GRAD_CAM},
        metrics=replace(METRICS, precision="native"),
        progress=False,
    )
    weights = {each.weight.dtype for one in copied for each in one.modules() if isinstance(each, torch.nn.Conv2d)}
    assert weights == {dtype}
    for row, other in zip(exact, native.rows["Net"]["grad_cam"], strict=True):
        close = 1.0 if supported else 1e-3
        assert other["scores"]["insertion"] == pytest.approx(row["scores"]["insertion"], abs=close)
    named = {torch.bfloat16: "bf16", torch.float32: "float32"}[dtype]
    assert f"softmax scores in {named}, the device's fastest precision." in str(native)


def test_of_several_candidates_the_one_with_the_highest_logit_is_explained(tmp_path):
    from PIL import Image

    from lightning_saliency.data.boxes import BoxedImages, read_annotations

    pixels = torch.randint(0, 255, (4, 12, 12, 3), dtype=torch.uint8)
    lines = ["file,class_name"]
    for number, one in enumerate(pixels):
        Image.fromarray(one.numpy()).save(tmp_path / f"{number}.png")
        lines += [f"{number}.png,thing", f"{number}.png,other"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    data = BoxedImages(read_annotations(tmp_path / "labels.csv"), {"thing": (0, 2, 3), "other": (1,)}, 12, 12)
    model = Net()
    comparison = compare(model, data, ["random"], ["drop"])
    logits = model(torch.stack([data[index].image for index in range(4)]))
    best = [(0, 2, 3)[int(row[[0, 2, 3]].argmax())] for row in logits]
    assert [row["target"] for row in comparison.rows["Net"]["random"]] == [t for one in best for t in (one, 1)]


def results(comparison):
    timed = ("seconds",)
    return [
        {key: value for key, value in row.items() if key not in timed}
        for methods in comparison.rows.values()
        for rows in methods.values()
        for row in rows
    ]


def test_killed_in_the_middle_it_goes_on_to_the_same_results(tmp_path, interrupted):
    def compute(output):
        rise = {"class_path": "rise", "init_args": {"masks": 8, "grid": 3}}
        methods = {"random": {}, "mine": interrupted, "rise": rise}
        networks = {"a": Net(), "b": Net(1)}
        return run_comparison(
            models=networks,
            data=detection_data(),
            explainers=methods,
            metrics=METRICS,
            output=str(output),
            chunk=2,
            resamples=50,
            progress=False,
        )

    whole = compute(tmp_path / "whole")
    assert interrupted.calls == 8  # 3 blocks of 2 networks, each after a first call to warm up
    interrupted.calls, interrupted.die_at = 0, 6
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path / "killed")
    finished = len(list((tmp_path / "killed" / "cells").iterdir()))
    assert finished == 10  # the first block of 6 cells; of the second 3 of a, and random of b
    interrupted.calls, interrupted.die_at = 0, None
    resumed = compute(tmp_path / "killed")
    assert interrupted.calls == 5
    assert results(resumed) == results(whole)
    for network, methods in whole.estimates.items():
        for name, estimates in methods.items():
            for key in set(estimates) - {"seconds"}:
                assert resumed.estimates[network][name][key] == estimates[key]
    interrupted.calls = 0
    assert results(compute(tmp_path / "killed")) == results(whole)
    assert interrupted.calls == 0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"models": Net(7)}, "weights"),
        ({"explainers": {"random": {"class_path": "random", "init_args": {"seed": 3}}}}, "explainer options"),
        ({"data": detection_data(4)}, "data"),
        ({"metrics": MetricConfig(steps=6)}, "metrics"),
        ({"chunk": 3}, "chunk"),
    ],
)
def test_results_of_something_else_are_refused(tmp_path, change, part):
    arguments = {"models": Net(), "data": detection_data(), "explainers": ["random"], "metrics": METRICS}
    arguments |= {"output": str(tmp_path), "progress": False}
    run_comparison(**arguments)
    run_comparison(**arguments)
    with pytest.raises(StaleResultsError, match=rf"random\.json, the result of other {part}\."):
        run_comparison(**arguments | change)


def test_options_that_are_objects_can_be_resumed_and_told_apart(tmp_path):
    def explainers(scale, width):
        build = functools.partial(GradCAM, layer="4")
        options = {"layers": (scale, "4"), "weights": (1.0, width)}
        return {"cam": build, "smoe": {"class_path": "smoe", "init_args": options}}

    scales = find_scales(Net(), torch.zeros(1, 3, SIDE, SIDE))
    arguments = {
        "models": Net(),
        "data": detection_data(2),
        "metrics": METRICS,
        "output": str(tmp_path),
        "progress": False,
    }
    first = compare(explainers=explainers(scales[0], 1.0), **arguments)
    again = compare(explainers=explainers(scales[0], 1.0), **arguments)
    assert results(first) == results(again)
    for changed in (explainers(scales[1], 1.0), explainers(scales[0], 2.0)):
        with pytest.raises(StaleResultsError, match="other explainer options"):
            compare(explainers=changed, **arguments)
    other = {"cam": functools.partial(GradCAM, layer="2")}
    with pytest.raises(StaleResultsError, match="other explainer options"):
        compare(explainers=other, **arguments)


def test_images_without_boxes_and_without_targets():
    model, images = Net(), torch.randn(5, 3, SIDE, SIDE)
    comparison = run_comparison(models=model, data=images, explainers=["center_gaussian"], limit=3, resamples=20)
    assert [column.key for column in comparison.columns] == ["drop", "increase", "insertion", "deletion", "overall"]
    rows = comparison.rows["Net"]["center_gaussian"]
    assert len(rows) == 3
    predicted = set(model(images).argmax(1).tolist())
    assert {row["target"] for row in rows} <= predicted
    with pytest.raises(ValueError, match="need boxes"):
        compare(model, images, ["random"], ["ebpg"])


def test_everything_is_written(tmp_path):
    data = [{"image": image, "label": 1, "boxes": target["boxes"][:1]} for image, target in detection_data()]
    comparison = run_comparison(
        models=Net(), data=data, explainers={"random": {}, "smoe": {}}, metrics=METRICS, resamples=20
    )
    files = {path.name for path in comparison.save(tmp_path)}
    assert files == {path.name for path in tmp_path.glob("[!.]*")}
    assert {"table.md", "curves_Net.png", "bars_Net.png", "examples_Net.png"} <= files
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["explainer"] for line in lines] == ["random"] * 5 + ["smoe"] * 5
    for line, row in zip(lines, comparison.rows["Net"]["random"], strict=False):
        assert float(line["ebpg"]) == row["scores"]["ebpg"]
    summary = json.loads((tmp_path / "results.json").read_text())
    assert summary["results"]["Net"]["smoe"]["drop"]["value"] == comparison.estimates["Net"]["smoe"]["drop"].value
    mean = torch.tensor(
        [row["curves"]["insertion"] for row in comparison.rows["Net"]["smoe"]], dtype=torch.float64
    ).mean(0)
    assert summary["curves"]["Net"]["insertion"]["smoe"] == pytest.approx(mean.tolist())
    assert "seed 0" in summary["caption"]


def test_the_sheet_shows_the_best_the_median_and_the_worst():
    images, targets = torch.randn(5, 3, SIDE, SIDE), torch.tensor([0, 1, 2, 3, 0])
    comparison = run_comparison(
        models=Net(), data=images, explainers=["random", "smoe"], metrics=METRICS, targets=targets, progress=False
    )
    methods = comparison.rows["Net"]
    means = [sum(row["scores"]["overall"] for row in rows) / 2 for rows in zip(*methods.values(), strict=True)]
    ordered = sorted(range(5), key=lambda place: -means[place])
    examples = comparison.examples("Net")
    assert list(examples) == ["photo", "random", "smoe"]
    for column, place in enumerate((ordered[0], ordered[2], ordered[4])):
        photo = examples["photo"][column]
        assert (photo.saliency, photo.title) == (None, methods["smoe"][place]["label"])
        for name in ("random", "smoe"):
            example, row = examples[name][column], methods[name][place]
            assert torch.equal(example.saliency, decoded_map(row["map"]))
            assert torch.equal(example.image, photo.image)
            assert example.title == f"{row['scores']['overall']:.1f}"


def test_the_network_is_left_as_it_was():
    model = Net().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run_comparison(
        models=model, data=detection_data(2), explainers=["grad_cam", "rise"][:1], metrics=METRICS, progress=False
    )
    assert [module.training for module in model] == [True, False] + [True] * 6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "options", "expected"), [("rise", {"masks": 12, "fast": True}, 12), ("smoe", {}, 1)])
def test_passes_of_copies_count_and_looking_for_layers_does_not(name, options, expected):
    comparison = run_comparison(
        models=Net(),
        data=detection_data(2),
        explainers={name: {"class_path": name, "init_args": options}},
        metrics=["drop"],
        progress=False,
        chunk=1,
        resamples=5,
    )
    assert comparison.estimates["Net"][name]["passes"].value == expected


def test_passes_are_counted_from_outside_only():
    model = nn.Sequential(Net())
    with counted_passes((SIDE, SIDE)) as passes:
        model(torch.rand(3, 3, SIDE, SIDE))
        nn.Flatten()(torch.rand(5, 3, 2, 2))
    model(torch.rand(1, 3, SIDE, SIDE))
    assert passes == [3]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"explainers": ["gradcam"]}, ValueError, "Allowed are smoe, .*random, center_gaussian"),
        ({"explainers": {"grad_cam": {"class_path": "grad_cam", "init_args": {"leyer": "4"}}}}, TypeError, "leyer"),
        ({"explainers": []}, ValueError, "Allowed are one or more"),
        ({"metrics": ["f1"]}, ValueError, "ebpg, miou"),
        ({"data": iter([])}, TypeError, "data sets with a length"),
        ({"data": [torch.rand(3, 4, 4)]}, TypeError, "wrap the data set"),
        ({"data": [(torch.rand(3, 10, 10), 9)]}, ValueError, r"classes \[9\]"),
        ({"data": [(torch.rand(3, 10, 10), 0), (torch.rand(3, 9, 10), 0)]}, ValueError, "Resize and crop"),
        ({"limit": 0}, ValueError, "limit=0"),
    ],
)
def test_errors_say_what_to_do(arguments, error, match):
    arguments = {"data": detection_data(2), "explainers": ["random"], **arguments}
    with pytest.raises(error, match=match):
        run_comparison(models=Net(), **arguments)
