import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision import transforms as v1
from torchvision.transforms import v2

from lightning_saliency.pictures.tensors import (
    displayable,
    find_normalization,
    fitted_size,
    sheet,
    shortened,
    text_font,
    tile_width,
    to_uint8,
)


class _DataSet:
    def __init__(self, transform):
        self.transform = transform


class _Loader:
    def __init__(self, dataset):
        self.dataset = dataset


def test_normalization_is_found_in_a_loader_of_a_data_set():
    transform = v2.Compose([v2.Resize(8), v2.Normalize(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])])
    assert find_normalization(None, [_Loader(_DataSet(transform))]) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert find_normalization(_DataSet(v2.Compose([v2.Resize(8)]))) is None


def test_normalization_survives_cycles():
    a, b = _DataSet(None), _DataSet(None)
    a.transform, b.transform = b, a
    assert find_normalization(a) is None


def test_denormalised_images_are_the_originals():
    images = torch.rand(2, 3, 4, 5)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = v2.functional.normalize(images, list(mean), list(std))
    shown, guessed = displayable(normalised, (mean, std))
    torch.testing.assert_close(shown, images)
    assert not guessed


def test_ranges_are_guessed_only_where_they_must_be():
    images = torch.rand(2, 3, 4, 5)
    assert displayable(images) == (pytest.approx(images), False) or torch.equal(displayable(images)[0], images)
    shown, guessed = displayable(images * 6 - 3)
    assert guessed
    assert shown.flatten(1).amin(1).tolist() == [0, 0]
    assert shown.flatten(1).amax(1).tolist() == [1, 1]
    eight_bit = (images * 255).round().to(torch.uint8)
    shown, guessed = displayable(eight_bit)
    torch.testing.assert_close(shown, eight_bit.float() / 255)
    assert not guessed


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_other_than_three_channels_are_shown_as_grey(channels):
    images = torch.rand(2, channels, 4, 5)
    shown, _ = displayable(images)
    assert shown.shape == (2, 3, 4, 5)
    for channel in range(3):
        torch.testing.assert_close(shown[:, channel], images.mean(1))


def test_nan_and_constant_images_are_shown():
    images = torch.full((2, 3, 4, 4), 7.0)
    images[0, 0, 0, 0] = float("nan")
    shown, _ = displayable(images)
    assert shown.isfinite().all()


def test_a_normalization_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"for 12 channels.*denormalize"):
        displayable(torch.rand(1, 12, 4, 4), ((0.5,) * 3, (0.5,) * 3))


def test_sheet_places_each_tile_in_its_column_and_row():
    colours = [
        torch.tensor([r, g, b]).reshape(3, 1, 1).expand(3, 20, 20)
        for r, g, b in [(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)]
    ]
    picture = sheet([colours, colours[::-1]], ["a", "b", "c"], tile=20)
    band = picture.shape[0] - (2 * 20 + 2)
    for column in range(3):
        expected = np.eye(3, dtype=np.uint8)[column] * 255
        assert (picture[band + 10, column * 22 + 10] == expected).all()
        assert (picture[band + 22 + 10, (2 - column) * 22 + 10] == expected).all()


def test_more_images_than_columns_continue_below():
    tiles = [torch.rand(3, 16, 16)] * 11
    four, eleven = sheet([tiles[:4]], [""] * 4, 16), sheet([tiles], [""] * 11, 16)
    assert eleven.shape[1] == four.shape[1]
    assert eleven.shape[0] == 3 * four.shape[0] + 2 * 2
    assert sheet([tiles], [""] * 11, 16, columns=11).shape == (four.shape[0], 11 * 18 - 2, 3)


@pytest.mark.parametrize("count", [1, 3, 8, 40])
def test_pictures_stay_within_their_width(count):
    tile = tile_width(count, 512)
    assert sheet([[torch.rand(3, tile, tile)] * count], ["x"] * count, tile).shape[1] <= 512


def test_captions_are_cut_to_their_tile():
    tiles = [torch.zeros(3, 40, 40)] * 2
    long = sheet([tiles], ["an extraordinarily long caption", ""], 40)
    assert (long[:14, 42:] == long[0, 42]).all()
    assert not (long[:14, :40] == long[0, 41]).all()


def test_sizes_keep_the_aspect():
    assert fitted_size(100, 200, 64) == (32, 64)
    assert fitted_size(1, 1000, 64) == (1, 64)


def test_uint8_rounds():
    assert to_uint8(torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1)).ravel().tolist() == [0, 128, 255]


def test_captions_have_arrows():
    tiles = [torch.zeros(3, 64, 64)]
    arrow, box, other = (sheet([tiles], [text], 64)[:16] for text in ("→", "\uffff", "\ufffe"))
    # Letters a font lacks all look alike; the arrow must not look like them.
    assert (box == other).all()
    assert not (arrow == box).all()


@pytest.mark.parametrize("name", ["golden\nretriever", "\n", "a\r\nb\tc", ""])
def test_captions_are_one_line(name):
    draw, font = ImageDraw.Draw(Image.new("RGB", (9, 9))), text_font()
    assert shortened(name, 500, draw, font) == " ".join(name.split())
    assert "\n" not in shortened(name * 40, 30, draw, font)


def test_a_normalisation_of_one_number_for_all_channels_is_found():
    scalar = v1.Normalize(0.5, 0.25)  # valid in torchvision's first version
    assert find_normalization(_DataSet(scalar), channels={3}) == ((0.5,), (0.25,))
    arrays = v1.Normalize(np.array([0.5, 0.4, 0.3]), torch.tensor([0.25]))
    assert find_normalization(arrays, channels={3}) == ((0.5, 0.4, 0.3), (0.25,))


def test_a_normalisation_that_is_no_numbers_is_not_found():
    class Normalize:
        mean, std = None, "per image"

    assert find_normalization([Normalize()]) is None
    assert find_normalization([Normalize(), v2.Normalize([0.5], [0.25])]) == ((0.5,), (0.25,))


def test_a_normalisation_of_other_channels_is_not_found():
    grey = v2.Compose([v2.Normalize([0.5] * 3, [0.2] * 3), v2.Grayscale()])
    assert find_normalization(_DataSet(grey), channels={1}) is None
    assert find_normalization(_DataSet(grey), channels={3}) == ((0.5,) * 3, (0.2,) * 3)
    then = v2.Compose([*grey.transforms, v2.Normalize([0.1], [0.3])])
    assert find_normalization(_DataSet(then), channels={1}) == ((0.1,), (0.3,))
    assert find_normalization(_DataSet(then), channels={1, 3}) == ((0.1,), (0.3,))
