"""One map for all images: the place where the maps point and where what lies there tells the class."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.callbacks import (
    AugmentationConfigurationError,
    GroupCAMAugmentation,
    MaskTune,
    SaliencyAugmentation,
)
from lightning_saliency.callbacks.augmentation.actions.basic import Hide
from lightning_saliency.callbacks.augmentation.one_map.shortcut_place import GRID, ShortcutPlace, region_of
from lightning_saliency.explainers import Explainer
from tests.callbacks.augmentation.helpers import Watching, equal, fit, state

SIZE = 32


def _scenes(count, mark=(slice(0, 6), slice(0, 10)), classes=3, seed=0):
    """Noise; in ``mark`` the colour of the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.rand(count, 3, SIZE, SIZE, generator=generator)
    if mark is not None:
        images[(slice(None), slice(None), *mark)] = (labels / classes)[:, None, None, None]
    return images, labels


def _maps(count, place, seed=1):
    """Maps that point to a place, and noise elsewhere."""
    maps = torch.rand(count, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    maps[(slice(None), *place)] += 1
    return maps


def _found(place, maps, images, labels):
    return place(maps, images, labels)[0].bool()


def test_the_place_is_as_large_as_the_mark_whatever_part_of_it_the_maps_show():
    images, labels = _scenes(60)
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    expected[:6, :10] = True
    for part in ((slice(0, 6), slice(0, 10)), (slice(2, 5), slice(6, 10)), (slice(4, 9), slice(8, 14))):
        assert torch.equal(_found(ShortcutPlace(), _maps(60, part), images, labels), expected)


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(channels):
    """Of five channels the mean stands for all, though images and what lies in their cells have the same shape then."""
    images, labels = _scenes(60)
    several = images[:, :1].expand(-1, channels, -1, -1).clone()
    place = ShortcutPlace()
    assert _found(place, _maps(60, (slice(0, 6), slice(0, 10))), several, labels).sum() == 60
    given = place.sums.cells.sum(0)
    # The contrast within one pixel is none, whatever the channels hold.
    assert given[4].abs().max() < 1e-2
    torch.testing.assert_close(given[0], several.mean(1).sum(0))


def test_a_frame_is_found_from_one_of_its_corners():
    images, labels = _scenes(60, mark=None)
    frame = torch.ones(SIZE, SIZE, dtype=torch.bool)
    frame[2:-2, 2:-2] = False
    images = torch.where(frame, (labels / 3)[:, None, None, None], images)
    assert torch.equal(_found(ShortcutPlace(), _maps(60, (slice(0, 5), slice(0, 5))), images, labels), frame)


@pytest.mark.parametrize(
    ("mark", "place", "said"),
    [
        (None, (slice(0, 6), slice(0, 10)), "no one place"),  # the maps agree; the class does not show
        ((slice(0, 6), slice(0, 10)), (slice(20, 28), slice(20, 28)), "no one place"),  # it shows; they look elsewhere
        ((slice(0, 32), slice(0, 30)), (slice(0, 6), slice(0, 10)), "all over the image"),
    ],
)
def test_both_are_needed_and_a_place(mark, place, said):
    found = ShortcutPlace()
    assert not _found(found, _maps(60, place), *_scenes(60, mark)).any()
    assert said in found.no_place


@pytest.mark.parametrize("images", [60, 600])
def test_maps_that_point_anywhere_name_no_place(images):
    """The upper half is the class's colour, as a sky; of six images of a class, many maps agree by chance."""
    for seed in range(10):
        pictures, labels = _scenes(images, (slice(0, 16), slice(0, 32)), classes=10, seed=seed)
        maps = torch.rand(images, SIZE, SIZE, generator=torch.Generator().manual_seed(100 + seed))
        found = ShortcutPlace()
        assert not _found(found, maps, pictures, labels).any()
        assert not found.everywhere


def test_a_place_that_shows_late_is_found(monkeypatch):
    monkeypatch.setattr("lightning_saliency.callbacks.augmentation.one_map.shortcut_place.IMAGES", 86)
    found, mark = ShortcutPlace(), (slice(0, 6), slice(0, 10))
    assert not _found(found, _maps(24, mark), *_scenes(24, None)).any()
    assert _found(found, _maps(60, mark), *_scenes(60, mark)).sum() == 60
    before = found.state_dict()["region"]
    # The last images decide, too, however few they are.
    assert _found(found, _maps(3, mark), *_scenes(3, mark)).sum() == 60
    assert found.settled
    assert found.state_dict()["region"] is not before


def test_a_tint_is_everywhere_wherever_the_maps_point():
    found, (images, labels) = ShortcutPlace(), _scenes(200, None)
    images = 0.5 * images + 0.6 * (labels / 3)[:, None, None, None]
    maps = torch.rand(200, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    assert not _found(found, maps, images, labels).any()
    assert found.everywhere
    assert "all over the image" in found.no_place


def test_nothing_is_said_of_a_few_images():
    found, mark = ShortcutPlace(), (slice(0, 6), slice(0, 10))
    assert found.no_place is None
    images, labels = _scenes(60)
    maps = _maps(60, mark)
    assert not _found(found, maps[:12], images[:12], labels[:12]).any()
    assert "too few images of each class" in found.no_place
    assert _found(found, maps[12:], images[12:], labels[12:]).sum() == 60
    assert found.no_place is None
    # Images without a class do not count, and one class alone tells nothing.
    for labels in (torch.full((60,), -1), torch.zeros(60, dtype=torch.int64)):
        without = ShortcutPlace()
        assert not _found(without, maps, images, labels).any()
        assert without.region is None


@pytest.mark.parametrize(("classes", "images"), [(2, 16), (3, 48), (10, 64), (10, 640), (40, 200)])
def test_chance_is_no_place(classes, images):
    """Where all maps agree and the images are noise, no cell of any of thirty data sets is found."""
    maps = _maps(images, (slice(0, 10), slice(0, 10)))
    for seed in range(30):
        found = ShortcutPlace()
        assert not _found(found, maps, *_scenes(images, None, classes, seed)).any()


@pytest.mark.parametrize(("images", "classes"), [(60, 10), (100, 20), (200, 40)])
def test_images_that_come_again_are_no_new_ones(images, classes):
    """Chance of a few images does not become a place by being shown in every epoch."""
    maps = _maps(images, (slice(0, 10), slice(0, 10)))
    for seed in range(3):
        found, (pictures, labels) = ShortcutPlace(), _scenes(images, None, classes, seed)
        while not found.settled:
            found.begin_epoch()
            assert not _found(found, maps, pictures, labels).any()


def test_a_mark_is_found_in_a_few_images_however_often_they_come():
    found, mark = ShortcutPlace(), (slice(0, 6), slice(0, 10))
    while not found.settled:
        found.begin_epoch()
        assert _found(found, _maps(60, mark), *_scenes(60, mark)).sum() == 60
    # Maps that come to point there later do so, too.
    late = ShortcutPlace()
    assert not _found(late, _maps(60, (slice(20, 28), slice(20, 28))), *_scenes(60, mark)).any()
    for _ in range(9):
        late.begin_epoch()
        last = _found(late, _maps(60, mark), *_scenes(60, mark))
    assert last.sum() == 60


def test_what_tells_the_class_is_judged_as_of_the_different_images():
    """ε² of images that came three times is that of coming once."""
    images, labels = _scenes(60, (slice(0, 6), slice(0, 10)), classes=10)
    noise = torch.rand(60, 3, 6, 10, generator=torch.Generator().manual_seed(3))
    images[:, :, :6, :10] += torch.linspace(0, 1, 10) * noise  # so that less of it tells the class further right
    once, thrice = ShortcutPlace(), ShortcutPlace()
    maps = _maps(60, (slice(0, 6), slice(0, 10)))
    once(maps, images, labels)
    for _ in range(3):
        thrice.begin_epoch()
        thrice(maps, images, labels)
    assert 0 < once.region.sum() < 60
    assert torch.equal(once.region, thrice.region)


def test_maps_that_say_nothing_point_nowhere():
    """Also where the upper rows of the image tell the class: these are not taken for what comes first."""
    images, labels = _scenes(60, (slice(0, 3), slice(0, SIZE)))
    constant, sparse = torch.zeros(60, SIZE, SIZE), torch.zeros(60, SIZE, SIZE)
    sparse[:, 20:22, 20:22] = 1.0
    for maps in (constant, sparse, constant + 0.5):
        assert not _found(ShortcutPlace(), maps, images, labels).any()


def test_images_that_say_nothing_do_not_settle_it(monkeypatch):
    monkeypatch.setattr("lightning_saliency.callbacks.augmentation.one_map.shortcut_place.IMAGES", 60)
    found, mark = ShortcutPlace(), (slice(0, 6), slice(0, 10))
    images, labels = _scenes(60)
    found(torch.full((60, SIZE, SIZE), torch.nan), images, labels)
    found(_maps(60, mark), images, torch.full((60,), 1000))
    assert not found.settled
    assert "very many classes" in found.no_place
    assert _found(found, _maps(60, mark), images, labels).sum() == 60
    assert found.settled


def test_classes_that_come_late_make_it_look_again():
    """Ten images of two classes tell a place; ninety more of ninety classes tell nothing."""
    found, mark = ShortcutPlace(), (slice(0, 6), slice(0, 10))
    images, labels = _scenes(30, classes=2)
    assert _found(found, _maps(30, mark), images, labels).sum() == 60
    others, _ = _scenes(90, None)
    assert not _found(found, _maps(90, mark), others, 2 + torch.arange(90)).any()
    assert "too few images of each class" in found.no_place


def test_other_sizes_and_maps_that_are_not_finite():
    found, (images, labels) = ShortcutPlace(), _scenes(60)
    maps = _maps(60, (slice(0, 6), slice(0, 10)))
    maps[7] = torch.nan
    given = found(maps, images, labels)
    assert given[7].isnan().all()
    assert given[8].sum() == 60
    # Of another size it may lie in a part of the next cell, and one is added.
    large = found(torch.rand(1, 2 * SIZE, 3 * SIZE), torch.rand(1, 3, 2 * SIZE, 3 * SIZE), torch.tensor([0]))
    assert large[0, :14, :33].all()
    assert large.sum() == 14 * 33


@pytest.mark.parametrize("size", [(16, 16), (28, 28), (33, 47), (50, 64), (75, 75), (112, 112), (224, 150)])
@pytest.mark.parametrize("width", [3, 7])
@pytest.mark.parametrize("offset", [0, 1, 5])
def test_no_row_of_the_mark_stays_visible(size, width, offset):
    generator = torch.Generator().manual_seed(width)
    labels = torch.arange(80) % 4
    images, maps = torch.rand(80, 3, *size, generator=generator), torch.rand(80, *size, generator=generator)
    mark = torch.zeros(size, dtype=torch.bool)
    mark[offset : offset + width, offset : offset + width] = True
    images = torch.where(mark, (labels / 4)[:, None, None, None], images)
    maps[:, mark] += 1
    found = _found(ShortcutPlace(), maps, images, labels)
    assert found[mark].all()
    if max(size) <= 64:
        assert torch.equal(found, mark)
    else:
        cell = -(-max(size) // GRID)
        assert found.sum() <= (width + 4 * cell) ** 2


@pytest.mark.parametrize(("of_each", "expected"), [(3, 0), (10, 60)])
def test_ten_images_of_each_class_are_enough(of_each, expected):
    for classes in (10, 100):
        images, labels = _scenes(of_each * classes, classes=classes)
        maps = _maps(len(images), (slice(0, 6), slice(0, 10)))
        assert _found(ShortcutPlace(), maps, images, labels).sum() == expected


def test_mirroring_half_of_the_images_is_enough_to_lose_the_place():
    """As the docs say: random flips have to be left out of the training that cures."""
    images, labels = _scenes(1000, classes=10)
    maps = _maps(1000, (slice(0, 6), slice(0, 10)))
    mirrored = torch.rand(1000, generator=torch.Generator().manual_seed(5)) < 0.5
    images[mirrored], maps[mirrored] = images[mirrored].flip(-1), maps[mirrored].flip(-1)
    found = ShortcutPlace()
    assert not _found(found, maps, images, labels).any()
    assert "flips" in found.no_place


def test_a_mark_in_the_images_of_one_class_alone_is_found():
    """As the coloured patches of skin photographs, in most of the benign ones and in none of the malignant."""
    images, labels = _scenes(200, None, classes=5)
    maps = torch.rand(200, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    marked = (labels == 2) & (torch.arange(200) % 8 != 0)
    images[marked, :, :6, :10] = 2.0
    maps[marked, :6, :10] += 1
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    expected[:6, :10] = True
    assert torch.equal(_found(ShortcutPlace(), maps, images, labels), expected)


def test_what_is_kept_and_restored():
    images, labels = _scenes(60)
    maps = _maps(60, (slice(0, 6), slice(0, 10)))
    found, again = ShortcutPlace(), ShortcutPlace()
    assert found.state_dict() is None
    found(maps[:40], images[:40], labels[:40])
    kept, before = found.kept(), found.state_dict()
    found(maps[40:], 1 - images[40:], labels[40:])
    assert not equal(found.state_dict(), before)
    found.restore(kept)
    assert equal(found.state_dict(), before)
    again.load_state_dict(before)
    for each in (found, again):
        each(maps[40:], images[40:], labels[40:])
    assert equal(found.state_dict(), again.state_dict())
    again.load_state_dict(None)
    assert again.state_dict() is None


def test_regions_hang_together():
    explained = torch.zeros(GRID, GRID)
    explained[3, 3:9], explained[20, 20], explained[3, 6] = 0.8, 0.9, 0.41
    seeds = torch.zeros(GRID, GRID, dtype=torch.bool)
    seeds[3, 3] = True
    assert region_of(seeds, explained).nonzero()[:, 1].tolist() == [3, 4, 5, 6, 7, 8]
    explained[3, 6] = 0.39  # less than half of the seed's
    assert region_of(seeds, explained).nonzero()[:, 1].tolist() == [3, 4, 5]


def _loader(mark=(slice(0, 6), slice(0, 10)), count=48):
    images, labels = _scenes(count, mark)
    return DataLoader(TensorDataset(images - 0.5, labels), batch_size=24)


class Corner(Explainer):
    """A guide whose maps point to the corner of any image, and that counts the images that it was asked for."""

    class_specific = False
    asked = 0

    def _explain(self, images, targets):
        Corner.asked += len(images)
        return _maps(len(images), (slice(0, 6), slice(0, 10)))


def test_the_mark_is_hidden_exactly_and_each_map_made_once(tmp_path):
    cure = MaskTune(Corner, maps="shortcut", film=False)
    assert cure.action == Hide(sigmas=0.0)
    Corner.asked, module = 0, Watching()
    fit(tmp_path, cure, module, _loader(), epochs=2)
    assert len(module.given) == 4
    expected = _loader().dataset.tensors[0].clone()
    expected[:, :, :6, :10] = 0
    for number, given in enumerate(module.given):
        assert torch.equal(given, expected[24 * (number % 2) :][:24])
    assert Corner.asked == 48 + 1  # the first image was tried beforehand


def test_where_there_is_no_place_training_is_what_it_was(tmp_path):
    watched, alone = Watching(), Watching()
    cure = MaskTune(Corner, maps="shortcut")
    with pytest.warns(UserWarning, match="changes no image: the maps of many images point to no one place"):
        run = fit(tmp_path / "cure", cure, watched, _loader(mark=None), epochs=2)
    assert equal(state(watched, run), state(alone, fit(tmp_path / "alone", None, alone, _loader(mark=None), epochs=2)))
    assert cure.epoch_means()["augmented"] == 0


def test_after_some_thousand_images_no_map_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_saliency.callbacks.augmentation.one_map.shortcut_place.IMAGES", 24)
    cure = SaliencyAugmentation(Corner, action="hide", maps="shortcut", film=False)
    Corner.asked, module = 0, Watching()
    fit(tmp_path, cure, module, _loader(), epochs=2)
    assert Corner.asked == 24 + 1
    assert all((given[:, :, :6, :10] == 0).all() for given in module.given)


def test_a_run_that_goes_on_knows_the_place(tmp_path):
    def cure():
        return MaskTune(Corner, maps="shortcut", film=False)

    kept = ModelCheckpoint(tmp_path / "kept", save_last=True)
    fit(tmp_path, None, Watching(), _loader(), callbacks=[cure(), kept], enable_checkpointing=True)
    again, whole = Watching(), Watching()
    fit(tmp_path / "on", cure(), again, _loader(), epochs=2, ckpt_path=tmp_path / "kept" / "last.ckpt")
    fit(tmp_path / "whole", cure(), whole, _loader(), epochs=2)
    assert equal(again.given, whole.given[2:])


def test_the_control_hides_as_much_elsewhere(tmp_path):
    cure = MaskTune(Corner, maps="shortcut", control="random_blobs", film=False)
    module = Watching()
    fit(tmp_path, cure, module, _loader())
    hidden = torch.cat([(given == 0).all(1) for given in module.given])
    assert hidden.sum((1, 2)).tolist() == [60] * 48
    assert hidden[:, :6, :10].float().mean() < 0.5


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MaskTune("smoe", share=0.1, maps="shortcut"), "share=0.1 .* maps='shortcut'"),
        (lambda: MaskTune("smoe", sigmas=1.0, maps="shortcut"), "sigmas=1.0"),
        (lambda: SaliencyAugmentation("smoe", action=Hide(0.2), maps="shortcut"), "share=0.2"),
        (lambda: SaliencyAugmentation("smoe", maps="shortcut"), "action='keep' .* take action='hide'"),
        (lambda: GroupCAMAugmentation(maps="shortcut"), "action='keep'"),
        (lambda: SaliencyAugmentation("smoe", action="swap", maps="shortcut"), "action='swap'"),
        (lambda: MaskTune("smoe", maps="shortcut", control="other_image"), "another image's is the same"),
        (
            lambda: MaskTune("smoe", share=0.1, maps="mean", control="other_image"),
            "control='random_blobs'; take that",
        ),
    ],
)
def test_what_does_not_go_with_one_place_for_all(make, match):
    with pytest.raises(AugmentationConfigurationError, match=match):
        make()


def test_labels_are_needed(tmp_path):
    images = DataLoader(TensorDataset(_scenes(24)[0]), batch_size=12)

    class WithoutLabels(Watching):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).square().mean()

    with pytest.raises(AugmentationConfigurationError, match="label"):
        fit(tmp_path, MaskTune("smoe", maps="shortcut", film=False), WithoutLabels(), images)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_other_precisions_and_accumulated_steps(tmp_path, precision):
    module = Watching()
    cure = MaskTune(Corner, maps="shortcut", film=False)
    fit(tmp_path, cure, module, _loader(), epochs=2, precision=precision, accumulate_grad_batches=2)
    for given in module.given:
        assert (given[:, :, :6, :10] == 0).all()
        assert (given[:, :, 6:] != 0).float().mean() > 0.95
