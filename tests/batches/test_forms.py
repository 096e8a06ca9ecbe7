"""Batches in the forms that libraries and loaders make: images with the labels of the same branch."""

from __future__ import annotations

import contextlib
import pickle
from collections import UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors

from lightning_saliency.batches import BatchError, BatchReader, NoImagesError, find_images, find_labels
from lightning_saliency.data.masked.loaders import batch_form

IMAGES = torch.rand(4, 3, 16, 20)
OTHERS = torch.rand(4, 3, 16, 20)
LABELS = torch.tensor([3, 1, 0, 2])


class Encoding(UserDict):
    """As tokenizers and image processors return it: keys are attributes, too."""

    def __getattr__(self, name):
        try:
            return self.data[name]
        except KeyError as error:
            raise AttributeError(name) from error


@dataclass
class Item:
    image: torch.Tensor
    gt_label: torch.Tensor
    pred_label: torch.Tensor | None = None


@attr.s(auto_attribs=True)
class Record:
    pixels: torch.Tensor
    label: torch.Tensor


class Slotted:
    __slots__ = ("img", "target")

    def __init__(self, img, target):
        self.img, self.target = img, target


class KeysOnly:
    """Like a mapping, but registered as none."""

    def __init__(self, **parts):
        self._parts = parts

    def keys(self):
        return self._parts.keys()

    def __getitem__(self, key):
        return self._parts[key]


Named = namedtuple("Named", "x y")


class OwnTensor(torch.Tensor):
    """A subclass that carries more than its numbers, as MONAI's does."""

    @classmethod
    def __torch_function__(cls, function, kinds, arguments=(), options=None):
        result = super().__torch_function__(function, kinds, arguments, options or {})
        if isinstance(result, OwnTensor):
            result.meta = {"affine": 1}
        return result


@pytest.mark.parametrize(
    "batch",
    [
        Encoding(pixel_values=IMAGES, labels=LABELS),
        UserDict(image=IMAGES, meta=UserDict(index=torch.arange(4)), label=LABELS),
        Item(IMAGES, LABELS, pred_label=torch.zeros(4, dtype=torch.int64)),
        Record(IMAGES, LABELS),
        Slotted(IMAGES, LABELS),
        KeysOnly(image=IMAGES, label=LABELS),
        SimpleNamespace(image=IMAGES, target=SimpleNamespace(class_id=LABELS)),
        Named(IMAGES, LABELS),
        (IMAGES, {"label": LABELS, "mask": torch.rand(4, 1, 16, 20)}),
        {"image": IMAGES, "target": {"label": LABELS, "depth": torch.rand(4, 3, 16, 20)}},
        ((IMAGES, LABELS), torch.arange(4)),
        (torch.arange(4) + 10, (IMAGES, LABELS)),
        ([IMAGES, OTHERS], LABELS, ["a.png", "b.png", "c.png", "d.png"]),
        {"image": IMAGES, "label": [3, 1, 0, 2]},
        {"image": IMAGES, "label": LABELS.numpy()},
        {"image": IMAGES, "label": LABELS[:, None]},
        {"image": IMAGES, "label": list(LABELS)},
        [{"labels": LABELS, "x": IMAGES}],
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_images_and_their_labels_in_containers_of_many_kinds(batch):
    content = BatchReader().read(batch)
    assert content.images is IMAGES
    assert content.labels().tolist() == [3, 1, 0, 2]
    assert find_images(batch) is IMAGES
    assert find_labels(batch, 4).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(
    "batch",
    [
        {"extra": OTHERS, "labelled": [IMAGES, LABELS]},
        {"extra": [OTHERS], "labelled": {"image": IMAGES, "label": LABELS}},
        [[OTHERS], [IMAGES, LABELS]],
        (OTHERS, (IMAGES, LABELS)),
        {"weak": {"image": OTHERS}, "strong": {"image": IMAGES, "label": LABELS}},
        [Item(IMAGES, LABELS), OTHERS],
        {"a": {"img": OTHERS}, "b": {"deeper": Named(IMAGES, LABELS)}},
        [None, (IMAGES, LABELS)],
    ],
)
def test_of_several_branches_the_labelled_one_is_taken(batch):
    content = BatchReader().read(batch)
    assert content.images is IMAGES
    assert content.labels() is LABELS


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        ({"extra": OTHERS, "labelled": (IMAGES, LABELS)}, "extra"),
        ([[OTHERS], [IMAGES, LABELS]], "0.0"),
        ({"weak": {"image": OTHERS}, "strong": {"image": IMAGES, "label": LABELS}}, "weak.image"),
    ],
)
def test_the_labels_of_another_branch_are_not_taken(batch, key):
    content = BatchReader(image_key=key).read(batch)
    assert content.images is OTHERS
    assert content.labels() is None
    assert content.objects() is None
    with pytest.raises(BatchError, match="label_key"):
        content.ground_truth()


def _loaders(*data):
    return [DataLoader(TensorDataset(*tensors), 4) for tensors in data]


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle", "sequential"])
@pytest.mark.parametrize("collection", [dict, list])
def test_combined_loaders_of_different_kinds(mode, collection):
    """Of images alone, of features with labels, and of images with labels: the last is taken, or what there is."""
    parts = _loaders((OTHERS,), (torch.rand(8, 5), torch.arange(8)), (IMAGES, LABELS))
    loaders = CombinedLoader(parts if collection is list else dict(zip("abc", parts, strict=True)), mode)
    form = batch_form(loaders, training=True)
    read = []
    for batch, _, _ in iter(loaders):
        try:
            content = BatchReader().read(batch, form)
        except NoImagesError:
            read.append(None)
            continue
        labels = content.labels()
        read.append((torch.equal(content.images, IMAGES), None if labels is None else labels.tolist()))
    first = (True, [3, 1, 0, 2])
    expected = {
        "min_size": [first],
        "max_size": [first, None],
        "max_size_cycle": [first, first],
        "sequential": [(False, None), None, None, first],
    }
    assert read == expected[mode]


def test_the_form_of_the_loaders_keeps_labels_apart_that_the_batch_alone_does_not():
    batch = {"pictures": [OTHERS], "texts": {"ids": torch.zeros(4, 7).long(), "label": LABELS}}
    form = {"pictures": None, "texts": None}
    assert BatchReader().read(batch, form).labels() is None
    assert BatchReader().read(batch["pictures"], None).labels() is None
    # A batch that a hook has put together otherwise is read as it is.
    assert BatchReader().read((IMAGES, LABELS), form).labels() is LABELS


def test_domains_may_be_called_source_and_target():
    form = {"source": None, "target": None}
    content = BatchReader().read({"source": (IMAGES, LABELS), "target": OTHERS}, form)
    assert content.images is IMAGES
    content = BatchReader().read({"source": OTHERS, "target": (IMAGES, LABELS)}, form)
    assert content.images is IMAGES
    assert content.labels() is LABELS


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS, torch.arange(4)),
        {"image": IMAGES, "first": LABELS, "second": torch.arange(4)},
        {"image": IMAGES, "label": LABELS, "coarse_label": torch.arange(4)},
    ],
)
def test_where_two_vectors_fit_a_warning_says_which_is_taken(batch):
    reader = BatchReader()
    with pytest.warns(UserWarning, match="label_key="):
        assert reader.read(batch).labels().tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("batch", "label_key", "index_key"),
    [
        ((IMAGES, torch.arange(4), LABELS), 2, None),
        ((IMAGES, torch.arange(4), LABELS), None, 1),
        ({"image": IMAGES, "first": torch.arange(4), "second": LABELS}, "second", "first"),
        ({"image": IMAGES, "id": torch.arange(4), "label": LABELS}, None, None),
        ({"a": {"image": IMAGES, "rows": {"sample_idx": torch.arange(4)}, "y": LABELS}}, "a.y", None),
    ],
)
def test_keys_and_names_tell_labels_from_indices_without_a_warning(batch, label_key, index_key, recwarn):
    content = BatchReader(label_key=label_key, index_key=index_key).read(batch)
    assert content.labels().tolist() == LABELS.tolist()
    assert content.ground_truth().tolist() == LABELS.tolist()
    assert content.indices().tolist() == [0, 1, 2, 3]
    assert not recwarn.list


def test_indices_are_no_labels():
    for batch in ({"image": IMAGES, "index": LABELS}, {"image": IMAGES, "ids": LABELS}, Item(IMAGES, None, LABELS)):
        assert BatchReader().read(batch).labels() is None


def test_a_wrong_label_key_is_said():
    batch = {"image": IMAGES, "label": LABELS, "weight": torch.rand(4)}
    with pytest.warns(UserWarning, match="nothing under label_key='lable'"):
        assert BatchReader(label_key="lable").read(batch).labels() is None
    with pytest.raises(BatchError, match=r"label_key='weight' but Tensor\[4\] float32"):
        BatchReader(label_key="weight").read(batch).labels()


@pytest.mark.parametrize("kind", [tv_tensors.Image, tv_tensors.Mask, lambda tensor: tensor.as_subclass(OwnTensor)])
def test_subclasses_become_plain_tensors_of_the_same_memory(kind):
    images = kind(IMAGES.clone())
    content = BatchReader().read({"image": images, "label": LABELS.as_subclass(OwnTensor)})
    assert type(content.images) is type(content.labels()) is torch.Tensor
    assert content.images.data_ptr() == images.data_ptr()
    assert content.held[0] is images


@pytest.mark.parametrize(
    ("images", "layout"),
    [
        (torch.rand(2, 3, 32, 24), "NCHW"),
        (torch.rand(2, 32, 24, 3), "NHWC"),
        (torch.zeros(2, 28, 28, 1, dtype=torch.uint8), "NHWC"),
        (torch.zeros(2, 16, 16, 4, dtype=torch.uint8), "NHWC"),
        (torch.rand(2, 13, 32, 32), "NCHW"),  # satellites
        (torch.rand(2, 22, 500, 1), "NCHW"),  # signals of 22 channels
        (torch.rand(2, 3, 3, 3), "NCHW"),
    ],
)
def test_the_layout_is_told_where_it_can_be(images, layout):
    content = BatchReader().read({"image": images})
    assert content.layout == layout
    assert content.images is images
    shape = tuple(images.shape)
    assert tuple(content.pictures.shape) == (shape if layout == "NCHW" else (shape[0], shape[3], *shape[1:3]))
    assert content.size == (shape[2:] if layout == "NCHW" else shape[1:3])
    assert content.single[0].shape == content.pictures.shape[1:]
    if layout == "NHWC":
        with pytest.raises(BatchError, match="permute"):
            content.channels_first()


def _detection(*sizes):
    return [torch.rand(3, *size) for size in sizes], [
        {"boxes": torch.tensor([[1.0, 1, 3, 3]] * number), "labels": torch.ones(number).long()}
        for number in range(len(sizes))
    ]


@pytest.mark.parametrize(
    "batch",
    [
        tuple(map(tuple, _detection((8, 9), (8, 9), (8, 9)))),
        list(_detection((8, 9), (8, 9), (8, 9))),
        {"images": _detection((8, 9), (8, 9), (8, 9))[0], "targets": _detection((8, 9), (8, 9), (8, 9))[1]},
        [{"image": image, **target} for image, target in zip(*_detection((8, 9), (8, 9), (8, 9)), strict=True)],
        [(image, target) for image, target in zip(*_detection((8, 9), (8, 9), (8, 9)), strict=True)],
    ],
)
def test_lists_of_images_of_one_size(batch):
    content = BatchReader().read(batch)
    assert content.count == 3
    assert content.images.shape == (3, 3, 8, 9)
    assert content.labels() is None  # labels of objects, of which there happen to be as many as images
    assert content.objects().flatten(1).sum(1).tolist() == [0, 4, 4]
    assert [image is held for image, held in zip(content.held, content.single, strict=True)] == [False] * 3
    assert all(torch.equal(image, one) for image, one in zip(content.held, content.single, strict=True))


@pytest.mark.parametrize("batch", [_detection((8, 9), (7, 9)), _detection((8, 9), (8, 12), (4, 4)), None])
def test_lists_of_images_of_different_sizes_are_told_one_by_one_and_refused_as_a_whole(batch):
    images = [torch.rand(16, 20, 3), torch.rand(12, 20, 3)] if batch is None else batch[0]
    content = BatchReader().read({"images": images} if batch is None else batch)
    assert [tuple(image.shape) for image in content.single] == [
        (image.shape[2], *image.shape[:2]) if batch is None else tuple(image.shape) for image in images
    ]
    assert content.objects() is None
    with pytest.raises(BatchError, match=r"different sizes.*collate_fn.*batch_size=1"):
        content.images  # noqa: B018


@pytest.mark.parametrize(
    "batch",
    [
        [torch.rand(4, 10, 5)],  # sequences of features
        [torch.rand(4, 10, 5), LABELS],
        {"input_ids": torch.ones(4, 7).long(), "labels": LABELS},
        [["a text", "another"], LABELS[:2]],
        torch.rand(4, 5),
        {"x": torch.rand(4, 5), "y": LABELS},
        {"volume": torch.rand(2, 1, 4, 8, 8)},
        None,
        [],
        {},
    ],
)
def test_batches_without_images_say_so(batch):
    volumes = isinstance(batch, dict) and "volume" in batch
    with pytest.raises(NoImagesError) as told:
        BatchReader().read(batch)
    assert ("Volumes and clips" in str(told.value)) == volumes
    with pytest.raises(NoImagesError, match="image_key"):
        BatchReader().read(batch)
    with pytest.raises(NoImagesError, match="image_key"):
        BatchReader(image_key="image").read(batch)


def test_readers_pickle_and_what_refers_to_itself_ends():
    circular = {"image": IMAGES}
    circular["self"] = circular
    assert pickle.loads(pickle.dumps(BatchReader(label_key="y"))).read(circular).images is IMAGES


class Failing(Mapping):
    def __init__(self, parts):
        self.parts = parts

    def __getitem__(self, key):
        if key == "lazy":
            raise RuntimeError("no such file")
        return self.parts[key]

    def __iter__(self):
        return iter([*self.parts, "lazy"])

    def __len__(self):
        return len(self.parts) + 1


def test_a_mapping_that_fails_for_a_key_is_read_without_it():
    assert BatchReader().read(Failing({"image": IMAGES, "label": LABELS})).labels() is LABELS


# --- any structure ----------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    ["image", "label", "labels", "x", "y", "a", "b", "target", "mask", "boxes", "index", "meta", 3]
)
_LEAVES = st.one_of(
    st.sampled_from([None, 1, 0.5, "text", b"", 3j, object(), LABELS, LABELS.bool(), LABELS.float(), torch.tensor(3)]),
    st.sampled_from([LABELS.to_sparse(), torch.ones(4, 16, 20).to_sparse(), torch.ones(4, 16, 20).cfloat()]),
    st.sampled_from([torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(1, 4)] * 2)]),
    st.sampled_from([torch.rand(4, 5), torch.rand(4, 2, 4), torch.zeros(4, 16, 20).long(), torch.zeros(0, 3, 4, 4)]),
    st.sampled_from([IMAGES, IMAGES.to_sparse(), IMAGES.cfloat(), IMAGES.byte(), torch.rand(3, 16, 20), [1, 2, 3, 4]]),
    st.sampled_from([tv_tensors.BoundingBoxes(torch.rand(4, 4), format="XYWH", canvas_size=(16, 20)), [[1, 2], "a"]]),
)


def _containers(inner):
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(_NAMES, inner, max_size=4),
        st.dictionaries(_NAMES, inner, max_size=3).map(UserDict),
        st.builds(Named, inner, inner),
        st.builds(SimpleNamespace, image=inner, label=inner),
    )


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(_LEAVES, _containers, max_leaves=12), st.sampled_from([None, "image", 0, "a.0", "-1.x", "", "0..1"])
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_structure_is_read_or_refused_in_the_readers_own_words(batch, key):
    reader = BatchReader(image_key=key, box_format="xywh")
    try:
        content = reader.read(batch)
        content.images  # noqa: B018
    except BatchError:
        return
    count = content.count
    labels = content.labels()
    assert labels is None or labels.shape == (count,)
    for reads in (content.ground_truth, content.indices):
        with contextlib.suppress(BatchError):
            assert len(reads()) == count
    objects = content.objects()
    assert objects is None or objects.shape == (count, *content.size)


@pytest.mark.parametrize("key", ["label", "mask", "boxes"])
@pytest.mark.parametrize(
    "unreadable",
    [
        torch.ones(4, 16, 20).to_sparse(),
        LABELS.to_sparse(),
        torch.ones(4, 16, 20).cfloat(),
        torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(1, 4)] * 2),
        [torch.eye(16).to_sparse()] * 4,
        torch.tensor(3.0),
    ],
    ids=["sparse masks", "sparse labels", "complex", "nested", "list of sparse", "single"],
)
def test_sparse_nested_and_complex_tensors_are_passed_over(key, unreadable):
    content = BatchReader().read({"image": IMAGES, key: unreadable})
    assert content.labels() is None
    assert content.objects() is None


def _branch(draw, number, labelled):
    """One loader's batch, in which each tensor tells by its values which loader it is of."""
    images = torch.full((4, 3, 8, 8), number / 10)
    labels = torch.full((4,), number)
    boxes = torch.tensor([[[0.0, 0, number + 1, 1]]]).repeat(4, 1, 1)
    kind = draw(st.sampled_from(["tuple", "dict", "named", "record", "nested"]))
    if kind == "tuple":
        return (images, labels) if labelled else draw(st.sampled_from([images, [images], (images, None)]))
    if kind == "named":
        return Named(images, labels if labelled else None)
    if kind == "record":
        return SimpleNamespace(img=images, more={"label": labels, "boxes": boxes} if labelled else None)
    beside = {"label": labels, "boxes": boxes} if labelled else {}
    return {"image": images, **beside} if kind == "dict" else {"inputs": {"pixel_values": images}, "target": beside}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_is_ever_taken_from_another_branch(data):
    labelled = data.draw(st.lists(st.booleans(), min_size=2, max_size=4))
    parts = [_branch(data.draw, number, each) for number, each in enumerate(labelled)]
    names = [*"dcba"][: len(parts)]
    batch, form = data.draw(
        st.sampled_from(
            [
                (list(parts), [None] * len(parts)),
                (tuple(parts), [None] * len(parts)),
                (dict(zip(names, parts, strict=True)), dict.fromkeys(names)),
            ]
        )
    )
    known = data.draw(st.booleans())
    content = BatchReader().read(batch, form if known else None)
    number = round(content.images.max().item() * 10)
    labels, objects = content.labels(), content.objects()
    assert labels is None or labels.tolist() == [number] * 4
    assert objects is None or int(objects[0].sum()) == number + 1
    assert labels is not None or not (known and any(labelled))


VOLUMES = torch.rand(2, 1, 4, 8, 8)


@pytest.mark.parametrize(
    "batch",
    [
        VOLUMES,
        (VOLUMES, torch.tensor([1, 0])),
        {"scan": VOLUMES, "label": torch.tensor([1, 0])},
        {"image": VOLUMES, "label": torch.rand(2, 1, 4, 8, 8)},
        (VOLUMES, torch.zeros(2, 4, 8, 8, dtype=torch.uint8)),
        {"masks": torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "volume": VOLUMES},
        {"mask": torch.zeros(2, 1, 4, 8, 8), "anything": VOLUMES},
    ],
)
def test_volumes_are_found_where_they_count(batch):
    content = BatchReader(volumes=True).read(batch)
    assert content.images is VOLUMES
    assert content.size == (4, 8, 8)


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, torch.rand(4, 3, 5, 5, 9)),  # targets of a detector on a grid of anchors
        {"pixel_values": IMAGES, "video": torch.rand(4, 3, 4, 8, 8)},
        {"other": torch.rand(4, 3, 4, 8, 8), "x": IMAGES},
    ],
)
def test_images_stay_the_images_beside_five_dimensions(batch):
    for reader in (BatchReader(), BatchReader(volumes=True)):
        assert reader.read(batch).images is IMAGES


def test_volumes_where_the_key_says_so_and_channels_last():
    last = torch.rand(2, 6, 9, 8, 3)
    batch = {"image": IMAGES[:2], "inner": {"deep": last}}
    content = BatchReader("inner.deep", volumes=True).read(batch)
    assert content.images is last
    assert content.layout == "NHWC"
    assert content.pictures.shape == (2, 3, 6, 9, 8)
    with pytest.raises(BatchError, match=r"image_key='inner.deep'.*read by SaliencyMonitor alone"):
        BatchReader("inner.deep").read(batch)


def test_clips_with_frames_first_are_refused():
    clips = torch.rand(2, 16, 3, 8, 8)
    for reader in (BatchReader(volumes=True), BatchReader("clip", volumes=True)):
        with pytest.raises(BatchError, match=r"\[2, 16, 3, 8, 8\], which seem to be clips \[B, T, C, H, W\]"):
            reader.read({"clip": clips})
    assert BatchReader(volumes=True).read(clips.transpose(1, 2)).size == (16, 8, 8)


def test_objects_of_volumes_are_masks_of_their_size():
    mask = torch.zeros(2, 4, 8, 8, dtype=torch.long)
    mask[0, 1:3, 2:5, 2] = 7
    mask[1, 0, 0, 0] = 255
    for form in (mask, mask[:, None], torch.stack([mask, 0 * mask], 1)):
        found = BatchReader(volumes=True).read({"volume": VOLUMES, "mask": form}).objects()
        assert torch.equal(found, (mask > 0) & (mask < 255))
    with pytest.warns(UserWarning, match=r"objects under 'mask'.*\[B, 4, 8, 8\]"):
        assert BatchReader(volumes=True).read({"volume": VOLUMES, "mask": mask[:, 0]}).objects() is None
