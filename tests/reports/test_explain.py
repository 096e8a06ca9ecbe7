"""`explain_images`: the pictures that the command writes, from Python; nothing is left behind in the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lightning_saliency import explain_images
from lightning_saliency.cli import main
from lightning_saliency.data.image_files import read_class_names, read_image
from lightning_saliency.explainers import SMOE, Explainer, GroupCAM
from lightning_saliency.networks import small_cnn
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION, to_uint8

IMAGENET = [torch.tensor(values).view(3, 1, 1) for values in IMAGENET_NORMALIZATION]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return small_cnn(10)


class LeftHalf(Explainer):
    """An explainer of one's own."""

    def __init__(self, model: nn.Module, level: float = 1.0) -> None:
        super().__init__(model)
        self.level = level

    def _explain(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        left = torch.arange(images.shape[3]) < images.shape[3] // 2
        return (self.level * left).expand(len(images), *images.shape[2:])


class Normalizing(nn.Module):
    """Normalises its images, in place or not."""

    def __init__(self, network: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.network, self.in_place = network, in_place

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.sub_(0.5).mul_(4) if self.in_place else (images - 0.5) * 4)


def test_a_network_that_writes_to_its_images_is_explained_as_any_other(photos, network):
    plain, writing = (
        explain_images(photos, Normalizing(network, in_place), ["grad_cam", "smoe"], resize=32, crop=32)[0].pictures
        for in_place in (False, True)
    )
    for name, picture in plain.items():
        assert np.array_equal(np.asarray(picture), np.asarray(writing[name])), name


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, []),
        ({"statistic": "std", "weights": [1, 2, 3, 4]}, ["--statistic", "std", "--weights", "1,2,3,4"]),
        (
            {"explainers": {"mean": None, "sise": {"init_args": {"mu": 0.3}}}, "targets": [2, 7], "normalize": "half"},
            [
                "--explainers",
                "mean,sise",
                "--explainers.sise.init_args.mu=0.3",
                "--targets",
                "2,7",
                "--normalize",
                "half",
            ],
        ),
    ],
)
def test_the_function_and_the_command_write_the_same_files(tmp_path, photos, network, options, flags):
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    written = explain_images(photos, network, resize=32, crop=32, **options).save(tmp_path / "python", progress=False)
    named = ["--model", "small_cnn", "--num_classes", "10", "--checkpoint", str(tmp_path / "weights.pth")]
    given = [*named, "--resize", "32", "--crop", "32", "--output", str(tmp_path / "command"), *flags, str(photos)]
    assert main(["explain", *given]) == 0
    assert {path.name for path in written} == {path.name for path in (tmp_path / "command").glob("[!.]*")}
    for path in written:
        assert path.read_bytes() == (tmp_path / "command" / path.name).read_bytes()


def test_the_result_is_a_sequence_of_pictures_by_name(photos, network):
    explained = explain_images(photos, network, ["grad_cam"], resize=32, crop=32, class_names=["cat"] * 10)
    assert len(explained) == 3
    assert explained.names == ["a", "b", "c"]
    assert [image.name for image in explained[1:]] == ["b", "c"]
    assert [image.file.name for image in explained] == ["a.png", "b.png", "c.png"]
    assert set(explained[-1].pictures) == {"grad_cam", "grad_cam_overlay", "sheet"}
    assert explained[0].pictures["grad_cam"].shape == (32, 32, 3)
    with pytest.raises(IndexError):
        explained[3]


def test_explainers_of_ones_own_in_any_form(photos, network):
    rows = {
        "left/half": LeftHalf,
        "half": {"class_path": f"{__name__}.LeftHalf", "init_args": {"level": 0.5}},
        "groups": lambda model: GroupCAM(model, groups=4),
    }
    pictures = explain_images(photos / "a.png", network, rows, resize=32, crop=32)[0].pictures
    assert list(pictures)[::2] == ["left_half", "half", "groups", "sheet"]
    assert (pictures["left_half"][:, :16] == 255).all()
    assert (pictures["half"][:, 16:] == 0).all()


def test_the_network_is_left_as_it_was(photos, network):
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explain_images(photos, network, ["smoe", "grad_cam"], resize=32, crop=32)[0]
    explain_images(photos, network, resize=32, crop=32)[0]
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"normalize": "minmax"}, ValueError, "Allowed are imagenet, half, none"),
        ({"explainers": ["magic"]}, ValueError, "smoe_scale"),
        ({"explainers": {"sise": {"init_args": {"nu": 1}}}}, TypeError, "Got the options .*Allowed are"),
        ({"explainers": {"rise": None}, "layers": ["stage1"]}, ValueError, "Got layers="),
        ({"targets": [1]}, ValueError, "without explainers"),
        ({"pictures": ["scale"]}, ValueError, "Did you mean 'scales'"),
        ({"explainers": ["fastcam"]}, ValueError, "Did you mean 'fast_cam'"),
        ({"explainers": {"group_cam": {"init_args": {"grups": 1}}}}, TypeError, "Did you mean 'groups'"),
        ({"class_names": "missing.csv"}, FileNotFoundError, "missing.csv"),
    ],
)
def test_wrong_arguments_are_said_before_anything_is_explained(photos, network, options, error, message):
    with pytest.raises(error, match=message):
        explain_images(photos, network, **options)


def test_class_names_of_files(tmp_path):
    for content, names in (
        ("name\ncat\ndog\n", ["cat", "dog"]),
        ("name,index\ncat,0\ndog,1\n", ["cat", "dog"]),
        ("0,cat\n1,dog\n", ["cat", "dog"]),
        ("cat\n\ndog\n", ["cat", "dog"]),
    ):
        (tmp_path / "names.csv").write_text(content)
        assert read_class_names(tmp_path / "names.csv") == names


def test_pictures_of_the_scales_on_request(photos, network):
    plain = explain_images(photos / "a.png", network, resize=32, crop=32)[0].pictures
    assert list(plain) == ["lovi", "combined", "sheet"]
    wanted = ["scales", "map", "overlay", "lovi"]
    explained = explain_images(photos / "a.png", network, pictures=wanted, resize=32, crop=32, weights="ramp")[0]
    scales = [f"scale_{number}" for number in (1, 2, 3, 4)]
    assert list(explained.pictures) == [*scales, "map", "overlay", "lovi", "sheet"]
    for kind in (*scales, "map", "overlay"):
        assert explained.pictures[kind].shape == (32, 32, 3)
    assert len({explained.pictures[kind].tobytes() for kind in scales}) == 4
    images = (read_image(photos / "a.png", 32, 32)[None] - IMAGENET[0]) / IMAGENET[1]
    grey = SMOE(network, weights="ramp")(images)[0]
    assert (explained.pictures["map"] == to_uint8(grey.expand(3, -1, -1))).all()
    # Beside explainers there are none but on request.
    rows = explain_images(photos / "a.png", network, ["grad_cam"], pictures="map", resize=32, crop=32)[0].pictures
    assert list(rows) == ["map", "grad_cam", "grad_cam_overlay", "sheet"]


def test_the_sheets_of_an_untrained_network_are_stamped(photos, network):
    for options in ({}, {"explainers": ["grad_cam"]}):
        plain, stamped = (
            explain_images(photos / "a.png", network, untrained=untrained, resize=64, crop=64, **options)[0].pictures
            for untrained in (False, True)
        )
        assert plain["sheet"].shape == stamped["sheet"].shape
        different = (plain["sheet"] != stamped["sheet"]).any(axis=2)
        rows, columns = different.nonzero()
        assert 0 < different.sum() <= 15 * 64
        assert columns.max() < 64  # the photo alone
        assert rows.max() - rows.min() < 15
        for kind in set(plain) - {"sheet"}:
            assert (plain[kind] == stamped[kind]).all()
