"""The pass that is read is the one over the batch's own images, from the first batch on, without a pass of our own."""

from __future__ import annotations

import collections
import copy
import io
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lightning_saliency.data import DigitScenes
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.scales import NoScalesError, ScaleTaps, find_scales, named_scales
from lightning_saliency.scales.reader import ScaleReader
from lightning_saliency.scales.taps import TapError
from lightning_saliency.scales.tracing.passes import BatchImages


class Net(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 4))

    def forward(self, images):
        return self.head(self.body(self.pool(self.stem(images))))


def images(count=4, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def literal(network, batch):
    """The maps of a batch by taps of a pass of their own, on a copy in the same mode."""
    network = copy.deepcopy(network)
    with ScaleTaps(network, find_scales(network, batch)) as taps, torch.no_grad():
        taps.start()
        network(batch)
        return taps.take()


def read(holder, step, batch, rows=None, times=2, **options):
    """What a reader finds in a step, in its first and in a later batch alike."""
    reader, found = ScaleReader(holder, **options), None
    for _ in range(times):
        reader.start(batch, rows)
        step(holder)
        again = reader.take()
        if found is not None:
            assert again.images == found.images
            for one, other in zip(again.maps, found.maps, strict=True):
                torch.testing.assert_close(one, other)
        found = again
    return reader, found


def assert_maps(found, expected, rows=None):
    rows = list(range(len(expected[0]))) if rows is None else rows
    assert list(found.images) == rows
    for map_, other in zip(found.maps, expected, strict=True):
        torch.testing.assert_close(map_, other[rows])


STEPS = {
    "plainly": lambda net, batch: net(batch),
    "after a mirrored pass": lambda net, batch: net(batch.flip(-1)) + net(batch),
    "before a mirrored pass": lambda net, batch: net(batch) + net(batch.flip(-1)),
    "after a noisy pass": lambda net, batch: net(torch.rand_like(batch)) + net(batch),
    "in chunks": lambda net, batch: [net(chunk) for chunk in batch.split(2)],
    "in uneven chunks, the last first": lambda net, batch: [net(batch[3:]), net(batch[:3])],
    "as the first view of two": lambda net, batch: [net(batch), net(batch + 0.3 * torch.rand_like(batch))],
    "in one batch with other views": lambda net, batch: net(torch.cat([batch.flip(-1), batch])),
    "in another order": lambda net, batch: net(batch[[2, 0, 3, 1]]),
    "beside the pass of a teacher": lambda net, batch: (net.teacher(batch), net(batch)),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_the_pass_over_the_batchs_images_is_read(step):
    torch.manual_seed(1)
    network, batch = Net().eval(), images()
    expected = literal(network, batch)
    network.teacher = Net().eval().requires_grad_(False)
    _, found = read(network, lambda net: step(net, batch), batch)
    assert_maps(found, expected)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_of_the_rows_wanted_alone(step):
    torch.manual_seed(1)
    network, batch = Net().eval(), images()
    expected = literal(network, batch)
    network.teacher = Net().eval().requires_grad_(False)
    _, found = read(network, lambda net: step(net, batch), batch, rows=[1, 3])
    assert_maps(found, expected, [1, 3])


class Holder(nn.Module):
    """A module that keeps networks and is not called itself, as a LightningModule whose steps call them."""

    def __init__(self, **networks):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)


def test_the_trained_network_goes_before_its_teacher():
    torch.manual_seed(1)
    student, batch = Net().eval(), images()
    holder = Holder(teacher=copy.deepcopy(student).requires_grad_(False), student=student)
    reader, found = read(holder, lambda module: (module.teacher(batch), module.student(batch)), batch)
    assert_maps(found, literal(student, batch))
    assert [scale.module for scale in reader.scales] == ["student.pool", "student.head"]


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Net()
        self.join = nn.Linear(8, 2)

    def forward(self, first, second):
        return self.join(torch.cat([self.backbone(first), self.backbone(second)], dim=1))


def test_a_network_of_two_towers_is_read_in_the_first_images_tower():
    torch.manual_seed(1)
    network, batch, other = Siamese().eval(), images(), images(seed=5)
    expected = literal(network.backbone, batch)
    for step in (lambda net: net(batch, other), lambda net: net(other, batch)):
        reader, found = read(network, step, batch)
        assert_maps(found, expected)
        assert [scale.module for scale in reader.scales] == ["backbone.pool", "backbone.head"]


class Detour(Holder):
    """A step that is run through ``forward``, as Lightning does it under DDP: the same module is entered twice."""

    def __init__(self, net):
        super().__init__(net=net)
        self.redirected = True

    def forward(self, batch, *_):
        if self.redirected:
            self.redirected = False
            try:
                return self(batch["image"])
            finally:
                self.redirected = True
        return self.net(batch)


def test_a_step_that_is_run_through_forward():
    torch.manual_seed(1)
    network, batch = Net().eval(), images()
    _, found = read(Detour(network), lambda module: module({"image": batch}, 0), batch)
    assert_maps(found, literal(network, batch))


class TakesBatch(Holder):
    def forward(self, batch):
        return self.net(batch["image"])


class NormalisesBytes(Holder):
    """Takes uint8 images [B, H, W, C], and brings them into the form and range that its network wants."""

    def forward(self, batch):
        return self.net((batch.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.22)


class TwoInputs(Holder):
    def forward(self, number, *, picture):
        return self.net(picture) * number


def test_nothing_needs_to_be_known_about_how_the_network_is_called():
    torch.manual_seed(1)
    network, batch = Net().eval(), images()
    expected = literal(network, batch)
    _, found = read(TakesBatch(net=network), lambda module: module({"label": 1, "image": batch}), batch)
    assert_maps(found, expected)
    _, found = read(TwoInputs(net=network), lambda module: module(2.0, picture=batch), batch)
    assert_maps(found, expected)
    stored = (255 * batch.permute(0, 2, 3, 1)).round().to(torch.uint8)
    shown = (stored.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.22
    _, found = read(NormalisesBytes(net=network), lambda module: module(stored), stored.permute(0, 3, 1, 2))
    assert_maps(found, literal(network, shown))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_is_read_once(reentrant):
    class Checkpointed(Net):
        def forward(self, batch):
            found = self.pool(checkpoint(self.stem, batch, use_reentrant=reentrant))
            return self.head(checkpoint(self.body, found, use_reentrant=reentrant))

    torch.manual_seed(1)
    network, batch = Checkpointed().eval(), images().requires_grad_()
    expected = literal(network, batch)

    def step(module):
        module(batch).sum().backward()

    _, found = read(network, step, batch)
    assert_maps(found, expected)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("training", [False, True])
def test_in_every_mode(mode, training):
    torch.manual_seed(1)
    network, batch = Net().train(training), images()
    with mode():
        # A step of training moves the running statistics, which training mode does not use.
        _, found = read(network, lambda module: module(batch), batch)
        expected = literal(network, batch)
    assert_maps(found, expected)


@pytest.mark.parametrize("statistic", ["std", "truncnormal_entropy"])
def test_other_statistics(statistic):
    torch.manual_seed(1)
    network, batch = Net().eval(), images()
    _, found = read(network, lambda module: module(batch), batch, statistic=statistic)
    with ScaleTaps(network, find_scales(network, batch), statistic) as taps, torch.no_grad():
        taps.start()
        network(batch)
        assert_maps(found, taps.take())


def test_named_layers():
    torch.manual_seed(1)
    network, batch = Net().eval(), images()
    layers = ["stem.0", "body:input"]
    reader, found = read(network, lambda module: module(batch), batch, layers=layers)
    assert reader.scales == named_scales(network, layers, batch)
    with ScaleTaps(network, reader.scales) as taps, torch.no_grad():
        taps.start()
        network(batch)
        assert_maps(found, taps.take())
    with pytest.raises(ValueError, match="no module named 'stm'"):
        read(network, lambda module: module(batch), batch, layers=["stm"])


class Stateful(Net):
    """Counts, remembers, averages and draws in ``forward``, all of it outside buffers."""

    def __init__(self):
        super().__init__()
        self.calls, self.queue = 0, collections.deque(maxlen=3)
        self.average = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.plain, self.generator = torch.zeros(()), torch.Generator().manual_seed(3)

    def forward(self, batch):
        self.calls += 1
        self.queue.append(batch.mean().item())
        self.average.data.mul_(0.9).add_(batch.mean().detach() * 0.1)
        self.plain.mul_(0.9).add_(batch.mean().detach() * 0.1)
        noise = torch.randn(batch.shape, generator=self.generator)
        return super().forward(batch + 0.01 * noise + 0.01 * random.random() + 0.01 * float(np.random.rand()))  # noqa: NPY002


def test_what_forward_keeps_and_draws_is_not_disturbed():
    def run(watched):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        network, batch = Stateful().train(), images()
        outputs, reader = [], ScaleReader(network)
        for _ in range(3):
            if watched:
                reader.start(batch)
            outputs.append(network(batch))
            if watched:
                reader.take()
        kept = [network.calls, list(network.queue), network.average.item(), network.plain.item()]
        return torch.stack(outputs), kept, torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002

    for one, other in zip(run(True), run(False), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_the_network_carries_hooks_in_the_step_alone():
    torch.manual_seed(1)
    network, batch = Net().eval(), images()
    reader = ScaleReader(network)
    for _ in range(2):
        reader.start(batch)
        network(batch)
        reader.take()
        assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())
        torch.save(network, io.BytesIO())
        pickle.dumps(network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, and still used
            torch.jit.script(network)
        twin = copy.deepcopy(network)
    reader.start(batch)
    twin(batch)
    network(batch.flip(-1))
    twin.zero_grad()
    torch.testing.assert_close(reader.take().maps, literal(network, batch.flip(-1)))


def test_a_layer_that_was_replaced_is_found_again():
    torch.manual_seed(1)
    network, batch = Net().eval(), images()
    reader, _ = read(network, lambda module: module(batch), batch)
    network.pool, network.body = nn.MaxPool2d(2), nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()).eval()
    reader.start(batch)
    network(batch)
    assert_maps(reader.take(), literal(network, batch))


def test_what_cannot_be_read_is_said():
    batch = images()
    with pytest.raises(NoScalesError, match="No scales found"):
        read(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), lambda module: module(batch), batch)
    with pytest.raises(TapError, match="called with images"):
        read(Net(), lambda module: None, batch)
    reader, _ = read(Net().eval(), lambda module: module(batch), batch)
    reader.start(batch)
    with pytest.raises(TapError, match="none of this step's passes"):
        reader.take()
    with pytest.raises(TapError, match="without start"):
        reader.take()


def layers_one_by_one(network, batch):
    for layer in (*network.stem, network.pool, *network.body, *network.head):
        batch = layer(batch)


def forward_of_the_parts(network, batch):
    network.head.forward(network.body.forward(network.pool(network.stem.forward(batch))))


def some_layers_alone(network, batch):
    network.stem[2](network.stem[1](network.stem[0](batch)))


@pytest.mark.parametrize("step", [layers_one_by_one, forward_of_the_parts, some_layers_alone])
def test_layers_that_nothing_holds_together_are_said(step):
    batch, network = images(), Net().eval()
    with pytest.raises(NoScalesError, match=r"entered 'stem.0', which is one layer\. .* call that, not its forward"):
        read(network, lambda net: step(net, batch), batch)


def test_an_error_of_ours_does_not_reach_the_network(monkeypatch):
    def broken(self, entering):
        raise RuntimeError("on purpose")

    batch, network = images(), Net().eval()
    reader, _ = read(network, lambda module: module(batch), batch)
    for fresh in (ScaleReader(network), reader):
        fresh.start(batch)
        with monkeypatch.context() as patch:
            patch.setattr("lightning_saliency.scales.tracing.passes.BatchImages.rows", broken)
            assert network(batch).shape == (4, 4)
        with pytest.raises(TapError, match="on purpose"):
            fresh.take()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 1, 384, 9), (2, 1, 9, 700), (2, 1, 390, 8, 8)])
def test_images_are_recognised_whatever_the_default_type(dtype, shape):
    """Lightning's "bf16-true" makes the type of its steps the default one, and bfloat16 counts from 383 to 384."""
    batch = torch.rand(shape)
    known = BatchImages(batch)
    torch.set_default_dtype(dtype)
    try:
        for entering in (batch, batch.clone(), batch * 2 - 1):
            assert known.rows(entering).exact
        assert not known.rows(batch.flip(2, 3)).exact
    finally:
        torch.set_default_dtype(torch.float32)


def weight_norm(network):
    for layer in (network.stem[0], network.body[0]):
        nn.utils.parametrizations.weight_norm(layer)


def spectral_norm(network):
    for layer in (network.stem[0], network.body[0]):
        nn.utils.parametrizations.spectral_norm(layer)


def tensors_in_the_place_of_parameters(network):
    """As FSDP does for the time of a forward pass, with ``use_orig_params`` for one layer, without it for the other."""

    def gather(module, *_):
        weight = torch.full((8, 3, 3, 3), 0.1) if module is network.stem[0] else torch.full((16, 8, 3, 3), 0.1)
        if module is network.stem[0]:
            module._parameters["weight"] = weight
        else:
            module.weight = weight

    def free(module, *_):
        if module is network.body[0]:
            del module.weight
        else:
            module._parameters["weight"] = nn.Parameter(torch.zeros(0))

    for layer in (network.stem[0], network.body[0]):
        del layer.weight
        layer.register_forward_pre_hook(gather)
        layer.register_forward_hook(free)


@pytest.mark.parametrize("change", [weight_norm, spectral_norm, tensors_in_the_place_of_parameters])
def test_weights_that_are_no_parameters_of_their_layer(change):
    batch, network = images(), Net().eval()
    change(network)
    reader, found = read(network, lambda module: module(batch), batch)
    assert reader.scales == find_scales(Net().eval(), batch)
    assert [tuple(map_.shape) for map_ in found.maps] == [(4, 16, 16), (4, 8, 8)]


def test_asking_for_weights_does_not_make_them(monkeypatch):
    network, batch = Net(), images()
    weight_norm(network)
    made = []
    original = type(network.body[0].parametrizations.weight[0]).forward
    monkeypatch.setattr(
        type(network.body[0].parametrizations.weight[0]),
        "forward",
        lambda self, *weights: made.append(0) or original(self, *weights),
    )
    with torch.no_grad():
        network(batch)
        plain = len(made)
        read(network, lambda module: module(batch), batch, times=1)
    assert len(made) == 2 * plain


def gradients_of_each_image(network, batch):
    parameters = dict(network.named_parameters())

    def loss(values, image):
        return torch.func.functional_call(network, values, (image[None],)).sum()

    torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, batch)


def ensemble(network, batch):
    parameters = {name: torch.stack([value, 2 * value]) for name, value in network.named_parameters()}
    torch.func.vmap(lambda values: torch.func.functional_call(network, values, (batch,)))(parameters)


def views_at_once(network, batch):
    torch.func.vmap(network)(torch.stack([batch, batch.flip(-1)]))


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")  # of torch's own, as it does forward derivatives
@pytest.mark.parametrize(
    "step",
    [
        lambda net, batch: torch.func.jvp(net, (batch,), (torch.ones_like(batch),)),
        lambda net, batch: torch.func.grad(lambda images: net(images).sum())(batch),
        lambda net, batch: torch.func.functional_call(net, dict(net.named_parameters()), (batch,)),
        lambda net, batch: torch.func.jacrev(lambda images: net(images).sum(0))(batch),
    ],
    ids=["jvp", "grad", "functional_call", "jacrev"],
)
def test_a_step_of_torch_func_is_read(step):
    batch, network = images(), Net().eval()
    network.stem[2] = nn.ReLU()
    _, found = read(network, lambda net: step(net, batch), batch)
    assert_maps(found, literal(network, batch))


@pytest.mark.parametrize("passes", [gradients_of_each_image, ensemble, views_at_once])
def test_a_pass_inside_vmap_is_passed_over(passes):
    batch, network = images(), Net().eval()
    network.stem[1], network.head[2] = nn.Identity(), nn.Identity()
    network.stem[2] = nn.ReLU()  # vmap takes no layer that writes into what it is given
    for step in (lambda net: (passes(net, batch), net(batch)), lambda net: (net(batch), passes(net, batch))):
        _, found = read(network, step, batch)
        assert_maps(found, literal(network, batch))
    with pytest.raises(TapError, match="vmap"):
        read(network, lambda net: passes(net, batch), batch)


@pytest.mark.parametrize("kind", ["dots", "strokes", "one star"])
def test_a_mirrored_pass_of_sparse_images_is_not_taken_for_theirs(kind):
    torch.manual_seed(3)
    batch = torch.zeros(4, 3, 64, 64)
    for index, image in enumerate(batch):
        if kind == "dots":
            image[:, 5 + 7 * index, 3 + 5 * index] = 1
        elif kind == "strokes":
            image[:, 10 * index + 3, 2:20] = 1
        else:
            image[:, 11 + index, 14] = 1
    network = Net().eval()
    _, found = read(network, lambda net: (net(batch.flip(-1)), net(batch)), batch)
    assert_maps(found, literal(network, batch))


NOISE = torch.Generator().manual_seed(5)
#: What a step makes of its images -> whether they are others then.
CHANGES = {
    "noise": (lambda images: images + 0.05 * torch.randn(images.shape, generator=NOISE), False),
    "gamma": (torch.sqrt, False),
    "logarithm": (lambda images: (images + 0.02).log(), False),
    "blur": (lambda images: nn.functional.avg_pool2d(images, 3, 1, 1), False),
    "mirrored": (lambda images: images.flip(-1), True),
    "turned": (lambda images: images.rot90(dims=(2, 3)), True),
    "cropped": (lambda images: nn.functional.interpolate(images[:, :, 8:40, 16:48], size=(64, 64)), True),
    "mixed": (lambda images: (images + images.roll(1, 0)) / 2, True),
    "pasted": (lambda images: torch.cat([images[:, :, :32], images.roll(1, 0)[:, :, 32:]], dim=2), True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_images_that_became_others_are_told_from_those_in_other_colours(change):
    data = DigitScenes(train_size=16, val_size=1, test_size=1, size=64, batch_size=16)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))["image"]
    batch = (batch - batch.amin()) / (batch.amax() - batch.amin())
    function, others = CHANGES[change]
    assert BatchImages(batch).rows(function(batch)).changed == others


class Copies(TorchDispatchMode):
    """Counts the operations that copy or convert tensors of at least so many values."""

    KINDS = ("clone", "copy", "index", "to_copy", "nan_to_num", "cat", "stack")

    def __init__(self, least):
        super().__init__()
        self.least, self.found = least, collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__.strip("_")
        if isinstance(out, torch.Tensor) and out.numel() >= self.least and name.startswith(self.KINDS):
            self.found[name] += 1
        return out


@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference"])
@pytest.mark.parametrize("volumes", [False, True], ids=["images", "volumes"])
def test_a_batch_that_is_read_is_not_copied(inference, volumes):
    with torch.inference_mode(inference), torch.no_grad():
        batch = torch.rand(4, 3, 8, 16, 16) if volumes else images()
        network = Net().eval()
        if volumes:
            network = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 4, 3), nn.ReLU())
        # A map of the first scale is a fourth of its activations, or less.
        with Copies(batch.numel() // 2 + 1) as plain:
            network(batch)
        reader, _ = read(network, lambda module: module(batch), batch, times=1)
        with Copies(batch.numel() // 2 + 1) as copies:
            reader.start(batch)
            network(batch)
            found = reader.take()
        assert copies.found == plain.found
        assert found.images == (0, 1, 2, 3)
    with Copies(batch.numel() // 2 + 1) as seen:
        batch[[0, 1, 2, 3]]
    assert seen.found


@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference"])
def test_a_batch_that_was_written_to_is_looked_at_anew(inference):
    network = Net().eval()
    with torch.inference_mode(inference), torch.no_grad():
        batch = images()
        expected, reader = literal(network, batch), ScaleReader(network)
        for _ in range(2):
            reader.start(batch)
            network(batch)
            batch.copy_(batch.flip(-1))
            network(batch)
            assert_maps(reader.take(), expected)
            batch.copy_(batch.flip(-1))


def test_a_forward_that_was_compiled_and_run_before_is_told_of():
    network = Net()
    compiled = torch.compile(network.forward, backend="eager")
    network.forward = compiled
    batch = images()
    network(batch)
    reader = ScaleReader(network)
    reader.start(batch)
    network(batch)
    with pytest.raises(NoScalesError, match=r"none of the layers in it was called by itself.*torch\.compiler\.reset"):
        reader.take()
    torch.compiler.reset()


class Refined(nn.Module):
    """Its cell is called three times in a pass."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.cell = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = x + self.cell(x)
        return self.head(x.mean((2, 3)))


class Pair(Refined):
    """Its stem sees the images and then their mirror images, and layers of its own work on both."""

    def forward(self, x):
        return self.head(self.cell(self.stem(x) - self.stem(x.flip(-1))).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "layer"),
    [(Refined, "cell"), (Refined, "cell:input"), (Refined, "cell.0"), (Pair, "stem"), (Pair, "stem.0")],
)
def test_of_a_layer_that_is_called_several_times_the_first_call_is_read_from_the_first_batch_on(kind, layer):
    torch.manual_seed(0)
    network, batch = kind(), images()
    _, found = read(network, lambda net: net(batch), batch, times=3, layers=(layer,))
    called = []
    name, _, side = layer.partition(":")
    with torch.no_grad():
        handle = network.get_submodule(name).register_forward_hook(
            lambda _, args, output: called.append(args[0] if side else output)
        )
        network(batch)
        handle.remove()
    torch.testing.assert_close(found.maps[0], STATISTICS["smoe_scale"](called[0]))
