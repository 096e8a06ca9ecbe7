"""What every metric class promises: any split of the data, saving and loading, classes, processes, no network kept."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_saliency import functional as scores
from lightning_saliency import metrics
from lightning_saliency.functional.curves import target_scores
from lightning_saliency.functional.masking import keep_most_salient

CLASSES = 3
PER_IMAGE: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "PointingGame": lambda b: scores.pointing_game(b["saliency"], b["masks"]),
    "EnergyPointingGame": lambda b: scores.energy_pointing_game(b["saliency"], b["masks"]),
    "TopFractionIoU": lambda b: scores.top_fraction_iou(b["saliency"], b["masks"]),
    "BboxScore": lambda b: scores.bbox_score(b["saliency"], b["masks"]),
    "InsertionAUC": lambda b: scores.auc(scores.insertion_curve(network(), b["images"], b["saliency"], b["targets"])),
    "DeletionAUC": lambda b: scores.auc(scores.deletion_curve(network(), b["images"], b["saliency"], b["targets"])),
    "AverageDrop": lambda b: scores.drop(*before_and_after(b)),
    "IncreaseRate": lambda b: scores.increase(*before_and_after(b)),
}
#: Those that ask the network.
SCORED = [name for name in metrics.__all__ if "model" in inspect.signature(getattr(metrics, name).update).parameters]
ALL = pytest.mark.parametrize("name", metrics.__all__)


def network() -> nn.Module:
    """A small network with dropout and batch statistics, so that a forgotten eval mode shows."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(24, CLASSES),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    return model.eval()


def batch(count: int = 12, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 10, 12, dtype=torch.bool)
    masks[:, 3:8, 2:9] = True
    masks[::3, :5] = False
    return {
        "images": torch.rand(count, 3, 10, 12, generator=generator),
        "saliency": torch.rand(count, 10, 12, generator=generator),
        "masks": masks,
        "targets": torch.randint(CLASSES, (count,), generator=generator),
    }


def before_and_after(b: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    masked = keep_most_salient(b["images"], b["saliency"], 0.15)
    model = network()
    return target_scores(model, b["images"], b["targets"]), target_scores(model, masked, b["targets"])


def make(name: str, average: str = "micro", **options: object) -> Metric:
    metric: Metric = getattr(metrics, name)(average=average, num_classes=CLASSES, **options)
    return metric


def arguments(name: str, b: dict[str, Tensor], model: object = None) -> dict[str, object]:
    if name in SCORED:
        return {"model": model or network(), **{key: b[key] for key in ("images", "saliency", "targets")}}
    return {key: b[key] for key in ("saliency", "masks", "targets")}


def part(b: dict[str, Tensor], index: slice | Tensor) -> dict[str, Tensor]:
    return {key: value[index] for key, value in b.items()}


@ALL
def test_micro_is_the_mean_over_images(name: str) -> None:
    b, metric = batch(), make(name)
    metric.update(**arguments(name, b))
    expected = PER_IMAGE[name](b)
    assert expected.std() > 0
    torch.testing.assert_close(metric.compute(), expected.mean())
    assert metric.compute().dtype == torch.float32


@ALL
def test_macro_is_the_mean_over_the_classes_that_occurred(name: str) -> None:
    b = batch()
    b["targets"] = b["targets"].clamp(max=1)
    expected = PER_IMAGE[name](b)
    by_class = torch.stack([expected[b["targets"] == label].mean() for label in (0, 1)])
    assert by_class[0] != by_class[1]
    macro, none = make(name, "macro"), make(name, "none")
    macro.update(**arguments(name, b))
    none.update(**arguments(name, b))
    torch.testing.assert_close(macro.compute(), by_class.mean())
    torch.testing.assert_close(none.compute()[:2], by_class)
    assert none.compute().shape == (CLASSES,)
    assert none.compute()[2].isnan()


@ALL
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_any_split_into_batches_gives_the_same_value(name: str, average: str) -> None:
    b = batch()
    values = []
    for cuts in ([12], [5, 7], [1] * 12, [4, 0, 8]):
        metric, start = make(name, average), 0
        for size in cuts:
            metric.update(**arguments(name, part(b, slice(start, start + size))))
            start += size
        values.append(metric.compute())
    shuffled = make(name, average)
    shuffled.update(**arguments(name, part(b, torch.randperm(12))))
    torch.testing.assert_close(torch.stack([*values, shuffled.compute()]), values[0].expand(5), atol=1e-4, rtol=1e-5)


@ALL
def test_forward_gives_the_batch_and_keeps_the_sum(name: str) -> None:
    first, second, metric, reference = batch(seed=1), batch(5, seed=2), make(name), make(name)
    metric(**arguments(name, first))
    value = metric(**arguments(name, second))
    torch.testing.assert_close(value, PER_IMAGE[name](second).mean(), atol=1e-4, rtol=1e-5)
    for one in (first, second):
        reference.update(**arguments(name, one))
    torch.testing.assert_close(metric.compute(), reference.compute(), atol=1e-4, rtol=1e-5)
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute().isnan()


@ALL
def test_pickle_and_state_dict_carry_the_sums_and_nothing_of_the_network(name: str) -> None:
    b, metric = batch(), make(name)
    model = network()
    metric.persistent(True)
    metric.update(**arguments(name, b, model))
    assert list(metric.parameters()) == []
    assert len(list(metric.modules())) == 1
    assert not any(value is model for value in vars(metric).values())
    copied = pickle.loads(pickle.dumps(metric))
    assert torch.equal(copied.compute(), metric.compute())
    state = metric.state_dict()
    assert set(state) == {"total", "count", "instance"}
    loaded = make(name)
    loaded.load_state_dict(state)
    loaded.update(**arguments(name, part(b, slice(4))))
    copied.update(**arguments(name, part(b, slice(4))))
    torch.testing.assert_close(loaded.compute(), copied.compute())


@ALL
def test_under_inference_mode_and_after_it(name: str) -> None:
    b, metric, reference = batch(), make(name), make(name)
    with torch.inference_mode():
        metric.reset()
        metric.update(**arguments(name, {key: value.clone() for key, value in part(b, slice(5)).items()}))
    metric.update(**arguments(name, part(b, slice(5, None))))
    reference.update(**arguments(name, b))
    torch.testing.assert_close(metric.compute(), reference.compute(), atol=1e-4, rtol=1e-5)
    assert not metric.compute().requires_grad


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps(name: str, dtype: torch.dtype) -> None:
    b, metric, reference = batch(), make(name), make(name)
    b["saliency"] = b["saliency"].to(dtype)
    metric.update(**arguments(name, b))
    b["saliency"] = b["saliency"].float()
    reference.update(**arguments(name, b))
    torch.testing.assert_close(metric.compute(), reference.compute())


@ALL
def test_direction_and_plot(name: str) -> None:
    metric = make(name)
    assert metric.higher_is_better is (name not in ("DeletionAUC", "AverageDrop"))
    assert metric.full_state_update is False
    metric.update(**arguments(name, batch()))
    assert float(metric.plot_lower_bound) <= metric.compute() <= float(metric.plot_upper_bound)
    figure, axis = metric.plot()
    assert axis.get_ylim()[0] <= 0
    figure.clear()


@ALL
def test_classes_are_checked(name: str) -> None:
    b = batch()
    with pytest.raises(ValueError, match="num_classes"):
        getattr(metrics, name)(average="macro")
    with pytest.raises(ValueError, match="'micro', 'macro', 'none'"):
        make(name, "weighted")
    metric = make(name, "none")
    metric.num_classes = 2
    with pytest.raises(ValueError, match=r"Got targets from .*Allowed are 0 to 1"):
        metric.update(**arguments(name, b))
    metric = make(name, "macro")
    with pytest.raises(ValueError, match=r"Got targets \[3\].*int64 \[12\]"):
        metric.update(**(arguments(name, b) | {"targets": b["targets"][:3]}))
    with pytest.raises(ValueError, match="float32"):
        metric.update(**(arguments(name, b) | {"targets": b["targets"].float()}))


def in_process(rank: int, folder: str) -> None:
    """One of two processes, whose shares differ in size."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share = part(batch(), slice(0, 5) if rank == 0 else slice(5, None))
    values = {}
    for name in metrics.__all__:
        metric = make(name, "macro")
        metric.update(**arguments(name, share))
        values[name] = metric.compute()
    curve = make("InsertionAUC", steps=6, keep_curves=True)
    curve.update(**arguments("InsertionAUC", share))
    values["mean_curve"] = curve.mean_curve()
    values["local_count"] = curve.count.clone()
    with curve.sync_context():
        values["curves"] = curve.curves
        values["mean_curve_synced"] = curve.mean_curve()
    torch.save(values, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    # Not forked: a process that has run threads of torch's can leave its fork waiting for ever.
    torch.multiprocessing.start_processes(in_process, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    b = batch()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name in metrics.__all__:
        metric = make(name, "macro")
        metric.update(**arguments(name, b))
        torch.testing.assert_close(first[name], metric.compute(), atol=1e-4, rtol=1e-5)
        assert torch.equal(first[name], second[name])
    curves = scores.insertion_curve(network(), b["images"], b["saliency"], b["targets"], steps=6)
    for one in (first, second):
        torch.testing.assert_close(one["curves"], curves, atol=1e-6, rtol=0)
        torch.testing.assert_close(one["mean_curve"], curves.mean(0), atol=1e-6, rtol=0)
        torch.testing.assert_close(one["mean_curve_synced"], curves.mean(0), atol=1e-6, rtol=0)
    assert [first["local_count"].item(), second["local_count"].item()] == [5, 7]


def test_a_collection_of_all() -> None:
    """`MetricCollection` hands each metric the arguments it knows."""
    b = batch()
    collection = MetricCollection([make(name) for name in metrics.__all__])
    collection.update(model=network(), **b)
    collection.update(model=network(), **b)
    values = collection.compute()
    for name in metrics.__all__:
        torch.testing.assert_close(values[name], PER_IMAGE[name](b).mean(), atol=1e-4, rtol=1e-5)


def test_a_collection_keeps_metrics_apart_that_begin_alike() -> None:
    """torchmetrics takes metrics of equal states for one: here they are equal after the first batch."""
    saliency = torch.zeros(2, 9, 9)
    saliency[:, 4, 4] = 1
    masks = torch.zeros(2, 9, 9, dtype=torch.bool)
    masks[0, 4, 4] = masks[1, 4, 6] = True
    names = {"exact": metrics.PointingGame(average="micro"), "near": metrics.PointingGame(average="micro", tolerance=3)}
    collection = MetricCollection(names | {"iou": metrics.TopFractionIoU()})
    for image in range(2):
        collection.update(saliency=saliency[image : image + 1], masks=masks[image : image + 1])
    values = collection.compute()
    assert values["exact"] == 0.5
    assert values["near"] == 1
    assert values["iou"] < 0.1
    assert collection.clone().compute()["near"] == 1


def test_macro_shows_the_nan_of_a_map() -> None:
    metric = metrics.EnergyPointingGame(average="macro", num_classes=3)
    saliency, masks = torch.rand(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    saliency[0] = torch.nan
    metric.update(saliency, masks, torch.tensor([0, 1]))
    assert metric.compute().isnan()


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_metric_is_made_without_arguments(name):
    assert getattr(metrics, name)().average == "micro"
