"""``lightning-saliency explain``: what is handed to the explainers, networks of all kinds, names of the pictures."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_saliency.cli import explain, main
from lightning_saliency.data.image_files import read_image
from lightning_saliency.explainers import SMOE, build_explainer
from lightning_saliency.networks import build_network
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION, to_uint8
from tests.paths import ROOT

SIZE = ["--resize", "32", "--crop", "32"]

NETWORKS = """
import torch
from types import SimpleNamespace
from torch import nn
from lightning_saliency.networks import small_cnn


class Wrapped(nn.Module):
    def __init__(self, classes, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.inner = small_cnn(classes, width=4)
        self.wrap = wrap

    def forward(self, images):
        return self.wrap(self.inner(images))


def tensor(num_classes):
    return Wrapped(num_classes, lambda logits: logits)


def dictionary(num_classes):
    return Wrapped(num_classes, lambda logits: {"features": logits[:, :1], "logits": logits})


def pair(num_classes):
    return Wrapped(num_classes, lambda logits: (logits, logits.sum()))


def attribute(num_classes):
    return Wrapped(num_classes, lambda logits: SimpleNamespace(logits=logits))


def pixelwise(num_classes):
    return Wrapped(num_classes, lambda logits: logits[:, :, None, None].expand(-1, -1, 8, 8))


def queries(num_classes):
    return Wrapped(num_classes, lambda logits: logits[:, :, None].expand(-1, -1, 8))


def unknown(num_classes):
    return Wrapped(num_classes, lambda logits: {"classes": logits, "other": logits})


def mlp(num_classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))
"""


def draw(path, seed=0, size=(40, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def as_given(photo):
    """A photo as the network is given it, ``[1, 3, 32, 32]``."""
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in IMAGENET_NORMALIZATION)
    return (read_image(photo, 32, 32)[None] - mean) / std


def argument(text):
    """An explainer's own argument on the command line."""
    explainer, _, given = text.partition(".")
    return f"--explainers.{explainer}.init_args.{given}"


def pixels_of(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def photo(tmp_path):
    return draw(tmp_path / "photo.png")


@pytest.fixture
def network(tmp_path):
    """A network, and the arguments that name it."""
    built = build_network("small_cnn", 10)
    torch.save(built.state_dict(), tmp_path / "weights.pth")
    arguments = ["--model", "small_cnn", "--num_classes", "10", "--checkpoint", str(tmp_path / "weights.pth"), *SIZE]
    return built.eval(), arguments


@pytest.fixture
def networks(tmp_path):
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    return lambda name, classes=5: ["--model", f"{path}:{name}", "--num_classes", str(classes), *SIZE]


def documented():
    """The commands that README and the documentation show."""
    for page in ("README.md", "docs/explainers.md"):
        for command in (ROOT / page).read_text().replace("\\\n", " ").split("$ lightning-saliency explain ")[1:]:
            yield shlex.split(command.splitlines()[0])


def test_commands_of_the_documentation_run_as_they_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw(Path("dog.jpg"))
    draw(Path("photos/cat.jpg"))
    Path("imagenet_classes.csv").write_text("name\n" + "something\n" * 1000)
    commands = list(documented())
    assert len(commands) >= 4
    ours = {"squeezenet1_0": "small_cnn", "mobilenet_v2": "small_cnn", "500": "20"}
    for number, command in enumerate(commands):
        for checkpoint in (part for part in command if part.endswith(".pth")):
            torch.save(build_network("small_cnn", 1000).state_dict(), checkpoint)
        given = [ours.get(part, part) for part in command]
        assert main(["explain", *SIZE, "--output", str(number), *given]) == 0, capsys.readouterr().err
        stem = "dog" if "dog.jpg" in command else "cat"
        assert Path(str(number), f"{stem}_sheet.png").is_file()
    assert {path.name for path in Path("1").glob("[!.]*")} == {
        "dog_sheet.png",
        *(f"dog_{method}{end}.png" for method in ("fast_cam", "group_cam", "sise") for end in ("", "_overlay")),
    }


def test_lists_are_separated_by_commas_and_leave_the_images_alone(tmp_path, network, photo):
    model, arguments = network
    layers = ["--layers", "stage1,pool2:input,stage4"]
    output = ["--output", str(tmp_path / "out")]
    assert main(["explain", *arguments, *output, "--explainers", "smoe", *layers, str(photo)]) == 0
    images = as_given(photo)
    maps = SMOE(model, layers=["stage1", "pool2:input", "stage4"])(images)
    assert (pixels_of(tmp_path / "out" / "photo_smoe.png") == to_uint8(maps.expand(3, -1, -1))).all()
    for number, given in enumerate((["--targets", "2,7,2"], ["--targets=[2, 7]"])):
        output = tmp_path / str(number)
        assert (
            main(["explain", *arguments, "--output", str(output), "--explainers", "grad_cam", *given, str(photo)]) == 0
        )
        shown = {path.name for path in output.glob("[!.]*")}
        assert shown == {
            "photo_sheet.png",
            *(f"photo_grad_cam_{target}{end}.png" for target in (2, 7) for end in ("", "_overlay")),
        }


def test_the_strength_of_overlays(tmp_path, network, photo):
    """The map's own picture and the grey image are what overlays of 0 and of 1 are made of."""
    _, arguments = network
    for alpha in ("0", "0.6", "1"):
        for number, explainers in enumerate(([], ["--explainers", "grad_cam", "--targets", "3"])):
            output = str(tmp_path / f"{alpha}_{number}")
            assert main(["explain", *arguments, "--alpha", alpha, "--output", output, *explainers, str(photo)]) == 0
    for name in ("0/photo_combined", "1/photo_grad_cam_overlay"):
        number, stem = name.split("/")
        color, mixed, grey = (
            pixels_of(tmp_path / f"{alpha}_{number}" / f"{stem}.png").astype(float) for alpha in ("0", "0.6", "1")
        )
        assert (grey[..., 0] == grey[..., 2]).all()
        assert np.abs(0.6 * grey + 0.4 * color - mixed).max() <= 1
    assert main(["explain", *arguments, "--alpha", "1.5", "--output", str(tmp_path / "no"), str(photo)]) == 2


def test_sheets_of_masks_and_of_kept_and_removed_pixels_by_options_and_by_yaml(tmp_path, network, photo, capsys):
    _, arguments = network
    rows = {"sise": {"init_args": {"max_masks": 3}}, "rise": {"init_args": {"masks": 5}}, "grad_cam": None}
    written = {}
    for name, options, flags in (
        ("yaml", {"explainers": rows, "masks": 2, "fractions": [0.1, 0.5]}, []),
        ("flags", {"explainers": rows}, ["--masks", "2", "--fractions", "0.1,0.5"]),
    ):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(options))
        given = ["--config", str(tmp_path / f"{name}.yaml"), "--output", str(tmp_path / name), *arguments, *flags]
        assert main(["explain", *given, str(photo)]) == 0
        assert "No sheets of masks for grad_cam, which score none." in capsys.readouterr().err
        written[name] = {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.png")}
        page = (tmp_path / name / "report.html").read_text()
        assert page.count("<img ") == 4
        assert "lightning-saliency explain --config" in page
    assert written["yaml"] == written["flags"]
    assert {"photo_sise_masks.png", "photo_rise_masks.png", "photo_kept_removed.png"} < set(written["yaml"])


@pytest.mark.parametrize(
    ("name", "given", "options"),
    [
        ("rise", [argument("rise.masks=6"), argument("rise.seed=3")], {"masks": 6, "seed": 3}),
        ("rise", [argument("rise.masks=6"), argument("rise.fast=true")], {"masks": 6, "fast": True}),
        ("grad_cam", [argument("grad_cam.layer=[stage2, stage3]")], {"layer": ["stage2", "stage3"]}),
        ("group_cam", [argument("group_cam.theta=null")], {"theta": None}),
        (
            "fast_cam",
            ["--statistic", "std", "--weights", "1,3", "--layers", "stage1,stage4"],
            {"statistic": "std", "weights": [1, 3], "layers": ["stage1", "stage4"]},
        ),
        ("smoe", ["--weights", "ramp"], {"weights": "ramp"}),
        ("smoe", ["--weights", "ramp", argument("smoe.weights=[0, 0, 0, 1]")], {"weights": [0, 0, 0, 1]}),
        ("sise", ["--layers", "stage3,stage4"], {"layers": ["stage3", "stage4"]}),
        ("mean", [argument("mean.layers=[stage2]")], {"layers": ["stage2"]}),
        ("smoe", [argument("smoe.normalization=gamma")], {"normalization": "gamma"}),
        ("smoe", ["--layers", "stage2.0", "--statistic", "std:abs"], {"layers": ["stage2.0"], "statistic": "std:abs"}),
        ("fast_cam", [argument("fast_cam.shown=non_class")], {"shown": "non_class"}),
        ("sise", [argument("sise.block=1")], {"block": 1}),
    ],
)
def test_options_reach_the_explainers(tmp_path, network, photo, name, given, options):
    model, arguments = network
    output = tmp_path / "out"
    assert (
        main(
            ["explain", *arguments, "--explainers", name, "--targets", "4", *given, "--output", str(output), str(photo)]
        )
        == 0
    )
    images = as_given(photo)
    explainer = SMOE(model, name, **options) if name == "mean" else build_explainer(name, model, **options)
    plain = SMOE(model, name) if name == "mean" else build_explainer(name, model)
    written = pixels_of(output / f"photo_{name}.png")
    assert (written == to_uint8(explainer(images, 4).expand(3, -1, -1))).all()
    if name != "rise":
        assert (written != to_uint8(plain(images, 4).expand(3, -1, -1))).any()


def test_options_of_captum_and_torchcam(tmp_path, network, photo):
    pytest.importorskip("captum")
    pytest.importorskip("torchcam")
    model, arguments = network
    output = tmp_path / "out"
    methods = ["--explainers", "occlusion,torchcam:LayerCAM", "--targets", "1"]
    given = [argument("occlusion.sliding_window_shapes=[3, 8, 8]"), argument("occlusion.strides=[3, 8, 8]")]
    given += [argument("torchcam:LayerCAM.layer=stage3")]
    assert main(["explain", *arguments, *methods, *given, "--output", str(output), str(photo)]) == 0
    images = as_given(photo)
    for name, options in (
        ("occlusion", {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)}),
        ("torchcam:LayerCAM", {"layer": "stage3"}),
    ):
        maps = build_explainer(name, model, **options)(images, 1)
        written = pixels_of(output / f"photo_{name.replace(':', '_')}.png")
        assert (written == to_uint8(maps.expand(3, -1, -1))).all()


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (
            ["--explainers", "rise", "--layers", "stage1"],
            ["Got layers=['stage1'] for rise", "masks, grid", "leave lay"],
        ),
        (
            ["--explainers", "fast_cam,group_cam", "--weights", "ramp"],
            ["Got weights=ramp for group_cam", "init_args of those that do"],
        ),
        (["--explainers", "grad_cam", "--statistic", "std"], ["Got statistic=std for grad_cam", "layer"]),
        (["--explainers", "mean", "--statistic", "std"], ["Got statistic=std for mean", "weights, layers"]),
        ([argument("rise.mask=5")], ["Got the options ['mask'] for rise", "Allowed are masks, grid"]),
        ([argument("rise.output=5")], ["rise of", "photo.png failed"]),
        ([argument("gradient.method=Occlusion")], ["Got the options ['method'] for gradient", "already says method"]),
        (["--explainers", "rise", argument("sise.mu=many")], ["sise (mu=many) cannot be made"]),
        ([argument("rise.masks=")], ["without a value"]),
        (["--explainers.rise.masks=5"], ["the keys masks", "class_path", "init_args"]),
        (["--explainers", "rise", "--explainers.masks=5"], ["'masks'", "cannot be used"]),
        ([argument("rise.masks=0")], ["rise (masks=0) cannot be made", "whole numbers from 1"]),
        ([argument("rise.masks=many")], ["rise (masks=many) cannot be made"]),
        ([argument("rise.masks=2.5")], ["rise (masks=2.5) cannot be made", "whole numbers from 1"]),
        ([argument("group_cam.layer=stage9")], ["group_cam of", "stage9"]),
        (["--explainers", "smoe", "--weights", "1,2"], ["smoe of", "Got 2 weights for 4 scales"]),
        (["--explainers", "magic"], ["'magic'", "smoe_scale", "group_cam"]),
        (["--explainers", ","], ["Got --explainers without a value"]),
        (["--explainers", "rise", "--targets", "dog"], ["Got --targets dog", "243,281"]),
        (["--explainers", "rise", "--targets", "3,10"], ["the target 10", "0 to 9"]),
        (["--targets", "3"], ["Got targets without explainers"]),
        (["--masks", "3"], ["Got masks=3 without an explainer", "group_cam, rise, score_cam, sise"]),
        (["--explainers", "smoe", "--masks", "3"], ["Got masks=3 without an explainer", "leave masks out"]),
        (["--explainers", "rise", "--masks", "0"], ["Got masks=0", "whole numbers from 1"]),
        (["--fractions", "10"], ["Got the fraction 10.0", "divide per cent by 100"]),
        (["--fractions", "half"], ["Got --fractions half", "--fractions 0.1,0.5"]),
        (["--fractions", ""], ["Got --fractions without a value"]),
        (["--layers", ""], ["Got --layers without a value"]),
        (["--layers", "stage1,stage9"], ["stage9"]),
        (["--weights", "1,2"], ["Got 2 weights for 4 scales"]),
        (["--weights", "heavy"], ["heavy"]),
    ],
)
def test_what_cannot_be_carried_out_is_said(tmp_path, network, photo, capsys, given, messages):
    if "gradient" in given[0]:
        pytest.importorskip("captum")
    assert main(["explain", *network[1], "--output", str(tmp_path / "out"), *given, str(photo)]) == 2
    told = capsys.readouterr().err
    for message in messages:
        assert message in told
    assert not list(tmp_path.glob("out/*"))


def test_an_output_that_is_a_file_is_said(network, photo, capsys, tmp_path):
    assert main(["explain", *network[1], "--output", str(tmp_path / "weights.pth"), str(photo)]) == 2
    assert "which is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["dictionary", "pair", "attribute", "pixelwise"])
@pytest.mark.parametrize("methods", [[], ["--explainers", "grad_cam,rise,smoe", argument("rise.masks=4")]])
def test_logits_are_found_in_what_networks_return(tmp_path, networks, photo, kind, methods):
    folders = [tmp_path / "plain", tmp_path / "wrapped"]
    for folder, name in zip(folders, ("tensor", kind), strict=True):
        assert main(["explain", *networks(name), *methods, "--output", str(folder), str(photo)]) == 0
    names = [sorted(path.name for path in folder.glob("[!.]*")) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (pixels_of(folders[0] / name) == pixels_of(folders[1] / name)).all()


@pytest.mark.parametrize(("kind", "message"), [("queries", "[1, 5, 8]"), ("unknown", "'classes', 'other'")])
def test_networks_without_class_scores_are_refused(tmp_path, networks, photo, capsys, kind, message):
    assert main(["explain", *networks(kind), "--output", str(tmp_path / "out"), str(photo)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "path/file.py:function" in told


def test_a_network_that_takes_other_images(tmp_path, networks, photo, capsys):
    arguments = [*networks("mlp"), "--crop", "24", "--explainers", "rise", "--output", str(tmp_path / "out")]
    assert main(["explain", *arguments, str(photo)]) == 2
    assert "24×24 pixels" in capsys.readouterr().err


def test_networks_without_scales_are_explained_by_what_needs_none(tmp_path, networks, photo, capsys):
    pytest.importorskip("captum")
    output = tmp_path / "out"
    methods = ["--explainers", "rise,gradient", argument("rise.masks=4")]
    assert main(["explain", *networks("mlp"), *methods, "--output", str(output), str(photo)]) == 0
    assert pixels_of(output / "photo_gradient.png").max() == 255
    for given in ([], ["--explainers", "smoe"]):
        assert main(["explain", *networks("mlp"), *given, "--output", str(output), str(photo)]) == 2
        assert "No scales found" in capsys.readouterr().err


def test_a_single_output(tmp_path, networks, photo, capsys):
    methods = ["--explainers", "rise", argument("rise.masks=4"), "--output", str(tmp_path / "out")]
    pictures = []
    for more in ([], [argument("rise.score=sigmoid")]):
        assert main(["explain", *networks("tensor", 1), *methods, "--targets", "0,1", *more, str(photo)]) == 0
        pictures.append([pixels_of(tmp_path / "out" / f"photo_rise_{target}.png") for target in (0, 1)])
    assert (pictures[0][0] == pictures[1][0]).all()
    assert (pictures[0][1] == pictures[1][1]).all()
    assert (pictures[0][0] != pictures[0][1]).any()
    assert main(["explain", *networks("tensor", 1), *methods, "--targets", "2", str(photo)]) == 2
    assert "Allowed are the network's classes, 0 to 1" in capsys.readouterr().err


def explained(tmp_path, network, files, *more):
    output = tmp_path / "out"
    status = main(["explain", *network[1], "--output", str(output), *more, *map(str, files)])
    return status, sorted(path.name for path in output.glob("*.png"))


@pytest.mark.parametrize(
    ("paths", "stems"),
    [
        (["a/x.png", "b/x.png", "b/y.png"], ["a_x", "b_x", "y"]),
        (["x.jpg", "x.png", "y.png"], ["x_jpg", "x_png", "y"]),
        (["a/x.jpg", "a/x.png", "b/x.jpg"], ["b_x", "x_jpg", "x_png"]),
        (["a/x.jpg", "a/x.png", "b/x.jpg", "b/x.png"], ["a_x_jpg", "a_x_png", "b_x_jpg", "b_x_png"]),
        (["1/a/x.png", "2/a/x.png"], ["1_a_x_png", "2_a_x_png"]),
        (["a/X.png", "b/x.png"], ["a_X", "b_x"]),
        (["a/x.png", "b/x.png", "c/a_x.png"], ["b_x", "c_a_x", "x_png"]),
    ],
)
def test_no_picture_takes_anothers_place(tmp_path, network, paths, stems):
    files = [draw(tmp_path / path, seed) for seed, path in enumerate(paths)]
    status, written = explained(tmp_path, network, files)
    assert status == 0
    assert written == sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("combined", "lovi", "sheet"))
    assert explained(tmp_path, network, reversed(files)) == (0, written)


def test_stems_and_explainers_that_make_one_name_are_told_apart(tmp_path, network):
    files = [draw(tmp_path / "a" / name) for name in ("y.png", "y_x.png")]
    status, written = explained(tmp_path, network, files, "--explainers", "grad_cam,x_grad_cam")
    assert status == 0
    assert len(written) == 2 * (2 * 2 + 1)


def test_an_image_given_twice_is_explained_once(tmp_path, network, photo, capsys):
    status, written = explained(tmp_path, network, [photo, tmp_path / "." / "photo.png", tmp_path])
    assert status == 0
    assert written == ["photo_combined.png", "photo_lovi.png", "photo_sheet.png"]
    assert "1 image explained" in capsys.readouterr().out


def test_names_that_cannot_be_told_apart_are_refused(tmp_path, network, capsys):
    files = [draw(tmp_path / "x.png"), draw(tmp_path / "X.png", 1)]
    if files[0].samefile(files[1]):
        pytest.skip("this file system does not tell capitals apart")
    assert explained(tmp_path, network, files) == (2, [])
    assert "its own output folder" in capsys.readouterr().err


def test_no_picture_takes_an_images_place(tmp_path, network, capsys):
    files = [draw(tmp_path / "out" / name) for name in ("photo.png", "photo_lovi.png")]
    before = files[1].read_bytes()
    assert explained(tmp_path, network, files) == (2, ["photo.png", "photo_lovi.png"])
    assert "take the place of the image" in capsys.readouterr().err
    assert files[1].read_bytes() == before


def test_the_parser_leaves_what_follows_a_list_to_the_images():
    parsed = explain._parser().parse_args(["--model", "m", "--targets", "2", "--layers", "a", "b.png", "c.png"])
    assert (parsed.targets, parsed.layers, parsed.images) == (2, "a", ["b.png", "c.png"])


def test_everything_may_stand_in_a_yaml_file(tmp_path, network, photo):
    output = tmp_path / "out"
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    config = {
        "images": [str(photo)],
        "model": "small_cnn",
        "num_classes": 10,
        "checkpoint": str(tmp_path / "weights.pth"),
        "explainers": {"fast_cam": None, "my-rise": {"class_path": "rise", "init_args": {"masks": 900}}},
        "targets": [1, 2],
        "class_names": str(names),
        "resize": 32,
        "crop": 32,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    more = [
        "--explainers.my-rise.init-args.masks",
        "4",
        "--explainers.my-rise.init_args.seed=5",
        "--output",
        str(output),
    ]
    assert main(["explain", "--config", str(path), *more]) == 0
    assert len(list(output.glob("[!.]*"))) == 2 * 2 * 2 + 1
    expected = build_explainer("rise", network[0], masks=4, seed=5)(as_given(photo), 2)
    assert (pixels_of(output / "photo_my-rise_2.png") == to_uint8(expected.expand(3, -1, -1))).all()


def test_an_explainers_argument_names_it_too(tmp_path, network, photo):
    given = ["--explainers", "grad_cam", argument("sise.mu=0.3"), "--output", str(tmp_path / "out")]
    assert main(["explain", *network[1], *given, str(photo)]) == 0
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {
        "photo_sheet.png",
        *(f"photo_{name}{end}.png" for name in ("grad_cam", "sise") for end in ("", "_overlay")),
    }


def test_no_images_are_said(network, capsys):
    assert main(["explain", *network[1]]) == 2
    assert "Got no images" in capsys.readouterr().err


def test_small_images_that_are_enlarged_are_noted_once(network, tmp_path, capsys):
    _, arguments = network
    draw(tmp_path / "in" / "a.png", size=(32, 40))
    draw(tmp_path / "in" / "b.png", size=(32, 32))
    plain = [*arguments[: -len(SIZE)], "--output", str(tmp_path / "out"), str(tmp_path / "in")]
    for more, noted in (
        (["--resize", "65", "--crop", "0"], True),
        (["--resize", "64", "--crop", "0"], False),
        (["--resize", "96", "--crop", "64"], True),
    ):
        assert main(["explain", *plain, *more]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert said.count("Note: ") == noted
        assert ("a.png has 32×40 pixels" in said) == noted
        assert ("add --resize 32 --crop 0" in said) == noted
        assert ("its border is cut off (--crop 64)" in said) == ("64" in more[2:] and noted)


def test_the_crop_follows_a_smaller_side(network, tmp_path, capsys):
    _, arguments = network
    Image.new("RGB", (100, 120), "white").save(tmp_path / "white.png")
    plain = [*arguments[: -len(SIZE)], "--output", str(tmp_path / "out"), str(tmp_path / "white.png")]
    assert main(["explain", *plain, "--resize", "48", "--pictures", "map"]) == 0
    assert Image.open(next((tmp_path / "out").glob("*_map.png"))).size == (48, 48)
    assert main(["explain", *plain, "--resize", "48", "--crop", "64"]) == 2
    assert "Got resize=48 and crop=64" in capsys.readouterr().err


def test_both_sides_may_be_given(network, tmp_path):
    _, arguments = network
    Image.new("RGB", (100, 120), "white").save(tmp_path / "white.png")
    plain = [*arguments[: -len(SIZE)], "--output", str(tmp_path / "out"), str(tmp_path / "white.png")]
    assert main(["explain", *plain, "--resize", "[32, 48]", "--pictures", "map", "--fractions", "0.5"]) == 0
    assert Image.open(next((tmp_path / "out").glob("*_map.png"))).size == (48, 32)
    assert "32×48 pixels" in (tmp_path / "out" / "report.html").read_text()


def test_an_untrained_network_is_warned_of_after_missing_files(tmp_path, capsys):
    assert main(["explain", "--model", "small_cnn", "--num_classes", "10", *SIZE, str(tmp_path / "nowhere.png")]) == 2
    said = capsys.readouterr().err
    assert "nowhere.png" in said
    assert "UNTRAINED" not in said


def test_a_checkpoint_that_does_not_fit_names_options_that_the_command_has(photo, network, tmp_path, capsys):
    _, arguments = network
    arguments[arguments.index("10")] = "7"
    assert main(["explain", *arguments, "--output", str(tmp_path / "out"), str(photo)]) == 2
    said = capsys.readouterr().err
    assert "Check --model and --num_classes." in said
    assert "reset_head" not in said
