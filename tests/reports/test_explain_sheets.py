"""Sheets of masks and of kept and removed pixels, and the page that shows them."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency import explain_images
from lightning_saliency.data.image_files import read_image
from lightning_saliency.explainers import RISE, SISE, SMOE, GradCAM
from lightning_saliency.functional.masking import blend, keep_most_salient, remove_most_salient
from lightning_saliency.networks import small_cnn
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION, displayable, to_uint8
from lightning_saliency.reports import explain_pictures, explained

MEAN, STD = [torch.tensor(values).view(3, 1, 1) for values in IMAGENET_NORMALIZATION]
SIZE = {"resize": 32, "crop": 32}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return small_cnn(10, width=4)


def as_given(photo, size):
    """A photo in [0, 1] and as the network takes it, ``[1, 3, size, size]``."""
    shown = read_image(photo, size, size)[None]
    return shown, (shown - MEAN) / STD


def tile(picture, top, place, size):
    left = 8 + place * (size + 4)
    return picture[top : top + size, left : left + size]


def test_a_sheet_shows_the_masks_of_each_block_and_the_image_under_them(photos, network):
    options = {"resize": 160, "crop": 160, "targets": [4]}
    rows = {"sise": {"init_args": {"layers": ["stage2", "stage4"]}}, "rise": {"init_args": {"masks": 11}}}
    pictures = explain_images(photos / "a.png", network, rows, masks=9, **options)[0].pictures
    assert list(pictures)[-3:] == ["sise_masks", "rise_masks", "sheet"]
    shown, images = as_given(photos / "a.png", 160)
    for name, explainer in (("sise", SISE(network, layers=["stage2", "stage4"])), ("rise", RISE(network, masks=11))):
        drawn = pictures[f"{name}_masks"]
        assert (tile(drawn, 42, 0, 160) == to_uint8(shown[0])).all()
        assert (tile(drawn, 42, 1, 160) == pictures[f"{name}_overlay"]).all()
        top = 42 + 164
        for block in explainer.mask_blocks(images[0], 4, 9):
            assert len(block.labels) >= 2
            under = displayable(blend(images, block.baseline, block.masks[None])[0], IMAGENET_NORMALIZATION)[0]
            top += 24
            for begin in range(0, len(block.labels), 8):  # eight in a line
                top += 18
                for place, at in enumerate(range(begin, min(begin + 8, len(block.labels)))):
                    assert (tile(drawn, top, place, 160) == to_uint8(block.masks[at].expand(3, -1, -1))).all()
                    assert (tile(drawn, top + 164, place, 160) == to_uint8(under[at])).all()
                top += 2 * 164
        assert drawn.shape[0] == top + 8


@pytest.mark.parametrize(("normalize", "fill"), [("imagenet", MEAN), ("half", 0.5), ("none", 0.5)])
def test_kept_and_removed_pixels_are_those_of_kar_and_roar(photos, network, normalize, fill):
    rows, fractions = ["grad_cam", "smoe"], [0.5, 0.1]
    drawn = explain_images(
        photos / "a.png", network, rows, targets=[4, 7], fractions=fractions, normalize=normalize, **SIZE
    )[0].pictures["kept_removed"]
    shown, _ = as_given(photos / "a.png", 32)
    mean, std = {"imagenet": (MEAN, STD), "half": (0.5, 0.5), "none": (0, 1)}[normalize]
    fill = fill if isinstance(fill, float) else fill.flatten()
    for target_row, target in enumerate((4, 7)):
        for row, explainer in enumerate((GradCAM(network), SMOE(network))):
            maps = explainer((shown - mean) / std, target)
            expected = [shown]
            for change in (keep_most_salient, remove_most_salient):
                expected += [change(shown, maps, fraction, fill) for fraction in (0.1, 0.5)]
            top = 36 + (2 * target_row + row) * (32 + 18 + 4)
            for place, image in enumerate(expected):
                assert (tile(drawn, top, place, 32) == to_uint8(image[0])).all(), (target, row, place)


def test_without_explainers_the_pixels_are_those_of_the_combined_map(photos, network):
    pictures = explain_images(photos / "a.png", network, fractions=[0.2], weights="ramp", **SIZE)[0].pictures
    assert list(pictures) == ["lovi", "combined", "kept_removed", "sheet"]
    shown, images = as_given(photos / "a.png", 32)
    kept = keep_most_salient(shown, SMOE(network, weights="ramp")(images), 0.2, MEAN.flatten())
    assert (tile(pictures["kept_removed"], 36, 1, 32) == to_uint8(kept[0])).all()


def test_the_maps_are_the_same_beside_the_sheets(photos, network):
    rows = ["sise", "grad_cam"]
    plain = explain_images(photos / "a.png", network, rows, **SIZE)[0].pictures
    more = explain_images(photos / "a.png", network, rows, masks=1, fractions=[0.5], **SIZE)[0].pictures
    assert set(more) - set(plain) == {"sise_masks", "kept_removed"}
    for kind, picture in plain.items():
        assert (picture == more[kind]).all(), kind


def test_the_page_shows_all_sheets_and_says_what_is_left_out(photos, network, tmp_path, monkeypatch):
    monkeypatch.setattr(explained, "PAGE_IMAGES", 2)
    images = explain_images(photos, network, ["sise", "smoe", "std"], masks=1, fractions=[0.5], untrained=True, **SIZE)
    assert images.notices == ["No sheets of masks for smoe and std, which score none."]
    written = images.save(tmp_path / "out", progress=False)
    assert written[-1] == tmp_path / "out" / "report.html"
    assert len(written) == 3 * (3 * 2 + 3) + 1
    page = written[-1].read_text()
    assert page.count("<img ") == 2 * 3
    assert page.count("data:image/png;base64,iVBOR") == 2 * 3
    for text in (
        "No sheets of masks for smoe and std",
        "The first 2 of 3 images",
        "The network is untrained",
        "the mean colour",
        "sise; smoe; std: smoe (statistic=std)",
        "<h2>b.png</h2>",
    ):
        assert text in page, text
    assert "<h2>c.png</h2>" not in page
    # Of its own, and so written again; of somebody else, and so left.
    assert images.save(tmp_path / "out", progress=False) == written
    written[-1].write_text("mine")
    with pytest.raises(ValueError, match=r"report\.html, which was not written here"):
        images.save(tmp_path / "out", progress=False)


def test_without_such_sheets_there_is_no_page(photos, network, tmp_path):
    written = explain_images(photos / "a.png", network, ["smoe"], **SIZE).save(tmp_path / "out", progress=False)
    assert sorted(path.name for path in written) == ["a_sheet.png", "a_smoe.png", "a_smoe_overlay.png"]


def test_the_sheets_of_an_untrained_network_are_stamped(photos, network):
    pair = [
        explain_images(
            photos / "a.png", network, ["rise"], masks=1, fractions=[0.5], untrained=untrained, resize=160, crop=160
        )[0].pictures
        for untrained in (False, True)
    ]
    for kind, top in (("rise_masks", 42), ("kept_removed", 36)):
        plain, stamped = (pictures[kind] for pictures in pair)
        different = (plain != stamped).any(axis=2)
        assert different.any()
        inside = tile(different, top, 0, 160)[-14:]
        assert different.sum() == inside.sum()


def test_a_row_says_where_many_pixels_are_equal(photos, network, monkeypatch):
    seen = []
    monkeypatch.setattr(explain_pictures, "mask_sheet", lambda image, rows, *rest: seen.extend(rows) or image)
    image = torch.rand(3, 10, 10)
    drawing = explain_pictures.Drawing(10, 10, ((0.0,), (1.0,)), fractions=(0.5,))
    few = torch.arange(100.0).view(10, 10)
    many = few.clamp(min=80)
    explain_pictures.kept_removed_sheet(image, {"few": few, "many": many}, drawing)
    assert seen == ["few", "many: 81 % of the pixels are equal, and taken from the upper left on"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explainers": ["sise"], "masks": 0}, "Got masks=0. Allowed are whole numbers from 1; give one"),
        ({"explainers": ["sise"], "masks": 1.5}, "Got masks=1.5"),
        ({"explainers": ["smoe", "grad_cam"], "masks": 2}, "Got masks=2 without.*group_cam, rise, score_cam, sise"),
        ({"masks": 2}, "Got masks=2 without an explainer that scores masks"),
        ({"fractions": [10]}, "Got the fraction 10. Allowed are shares in"),
        ({"explainers": ["sise"], "fractions": [0.1, 1.0]}, "Got the fraction 1.0"),
    ],
)
def test_wrong_values_are_said_before_anything_is_explained(photos, network, options, message):
    with pytest.raises(ValueError, match=message):
        explain_images(photos, network, **options)
