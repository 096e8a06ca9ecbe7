"""What the actions do to images, whose maps they take, and what is kept of them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_saliency.callbacks import AugmentationConfigurationError, SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.actions.basic import Changed, Hide, Keep, apply
from lightning_saliency.callbacks.augmentation.actions.options import ACTIONS, ActionSpec
from lightning_saliency.callbacks.augmentation.guide_network import GuideNetwork
from lightning_saliency.callbacks.augmentation.options import ACTION_NAMES
from lightning_saliency.explainers import SMOE, build_explainer
from lightning_saliency.functional.masking import remove_most_salient
from tests.callbacks.augmentation.helpers import SmallNet, Watching, equal, fit, originals, ready_made
from tests.callbacks.monitor.helpers import loader

LABELS = torch.arange(16) % 4


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hiding(explainer="smoe", **settings) -> SaliencyAugmentation:
    return SaliencyAugmentation(explainer, action="hide", film=False, **settings)


# --- the actions ------------------------------------------------------------------------------------------------------


def test_images_whose_maps_say_nothing_stay_as_they_are():
    images, maps = torch.rand(4, 3, 8, 8), torch.rand(4, 8, 8)
    maps[1], maps[3, 2, 2] = 0.5, torch.nan
    for action in (Keep(), Keep(soft=True), Hide(), Hide(sigmas=1.0, softness=0.1, fill="noise")):
        changed = apply(action, images, maps, _generator())
        assert [torch.equal(*pair) for pair in zip(changed.pixels, images, strict=True)] == [False, True, False, True]
        assert changed.masks[[1, 3]].eq(1).all()
        assert changed.masks[[0, 2]].lt(1).any(-1).any(-1).all()
        assert equal(apply(action, images[[1]], maps[[1]], _generator()).pixels, images[[1]])


def test_an_action_that_changes_the_images_size_is_refused():
    def smaller(images, maps, generator):
        return Changed(images[..., 1:], maps)

    with pytest.raises(ValueError, match=r"Got images \[2, 3, 8, 7\] .* keep the images' size"):
        apply(smaller, torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), _generator())


class Darken:
    """An action of one's own, which need not be a subclass."""

    def __init__(self, by: float = 0.5) -> None:
        self.by = by

    def __call__(self, images, maps, generator):
        return Changed(images * self.by, torch.zeros_like(maps))


@pytest.mark.parametrize(
    ("given", "kind", "written"),
    [
        ("keep", Keep, "keep"),
        (
            {"class_path": "hide", "init_args": {"share": 0.2}},
            Hide,
            {"class_path": "hide", "init_args": {"share": 0.2}},
        ),
        (Hide(fill="mean"), Hide, {"class_path": "hide", "init_args": {"fill": "mean"}}),
        (f"{__name__}.Darken", Darken, f"{__name__}.Darken"),
        (Darken(0.1), Darken, {"class_path": f"{__name__}.Darken", "init_args": {"by": 0.1}}),
    ],
)
def test_actions_in_every_form(given, kind, written):
    spec = ActionSpec.parse(given)
    assert isinstance(spec.action, kind)
    assert spec.written() == written
    again = ActionSpec.parse(written)
    assert again.written() == written
    assert vars(again.action) == vars(spec.action)


def test_an_action_of_ones_own(tmp_path):
    module = Watching(learning_rate=0.0)
    run = fit(tmp_path, SaliencyAugmentation("smoe", action=Darken(0.25)), module)
    assert torch.equal(torch.cat(module.given), originals() * 0.25)
    assert run.callback_metrics["smoe/kept_share"] == 0


def test_the_actions_are_those_that_messages_name():
    assert sorted(ACTION_NAMES) == sorted(ACTIONS)


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_every_action_runs_with_a_guide_that_needs_no_class(tmp_path, name):
    module = Watching(learning_rate=0.0)
    run = fit(tmp_path, SaliencyAugmentation("smoe", action=name), module)
    assert not torch.equal(torch.cat(module.given), originals())
    assert 0 < run.callback_metrics["smoe/kept_share"] < 1
    assert run.callback_metrics["smoe/augmented"] == 1
    assert list((tmp_path / "recorder" / "v" / "smoe" / "augmentation").glob("*.png")) or list(
        tmp_path.rglob("smoe/augmentation/*.png")
    )


# --- hiding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("explainer", "share", "fill"), [("smoe", 0.1, "zero"), ("fast_cam", 0.25, "mean")])
def test_the_most_salient_share_is_filled(tmp_path, explainer, share, fill):
    images, labels = originals(4), LABELS[:4]
    module = Watching(learning_rate=0.0)
    run = fit(
        tmp_path,
        SaliencyAugmentation(explainer, action=Hide(share=share, fill=fill)),
        module,
        ready_made([(images, labels)]),
    )
    maps = build_explainer(explainer, module.net.eval())(images, labels)
    torch.testing.assert_close(module.given[0], remove_most_salient(images, maps, share, fill))
    hidden = round(share * 256) / 256
    assert run.callback_metrics[f"{explainer}/kept_share"].item() == pytest.approx(1 - hidden)


@pytest.mark.parametrize(
    "settings",
    [
        {"control": "random_blobs"},
        {"control": "other_image"},
        {"guide_network": "untrained"},
        {"explainer": "random_blobs"},
    ],
)
def test_controls_hide_the_same_share_elsewhere(tmp_path, settings):
    given = []
    for used in ({}, settings):
        module = Watching(learning_rate=0.0)
        callback = SaliencyAugmentation(**{"explainer": "smoe", "action": "hide", "film": False, **used})
        fit(tmp_path, callback, module)
        assert callback.guide.is_control is bool(used)
        given.append(torch.cat(module.given))
    hidden = [(images != originals()).any(1) for images in given]
    assert not torch.equal(*hidden)
    for region in hidden:
        assert region.sum((1, 2)).tolist() == [round(0.1 * 256)] * 16


def test_a_guide_that_needs_no_class_needs_no_labels(tmp_path):
    class Unsupervised(Watching):
        def training_step(self, batch, batch_idx):
            self.given.append(batch[0].clone())
            return self(batch[0]).sum()

    images = originals(4)
    for batch in ((images,), (images, torch.tensor([0, -1, 255, 99]))):
        module = Unsupervised(learning_rate=0.0)
        run = fit(tmp_path, SaliencyAugmentation("smoe", action="hide"), module, ready_made([batch]))
        assert all(not torch.equal(*pair) for pair in zip(module.given[0], images, strict=True))
        assert ("smoe/confidence_gain" in run.callback_metrics) is (len(batch) == 2)  # of the one with a class
    with pytest.raises(AugmentationConfigurationError, match="no ground truth"):
        fit(tmp_path, hiding("grad_cam"), Unsupervised(), ready_made([(images,)]))


# --- whose maps -------------------------------------------------------------------------------------------------------


def seen_networks(augmentation):
    """The networks whose maps a run was guided by, without what they were asked in the trial."""
    found = []
    original = augmentation.guide.maps

    def noting(*arguments):
        found.append(augmentation.guide.network.of(augmentation.guide._model))
        return original(*arguments)

    augmentation.guide.maps = noting
    return found


def test_the_network_as_it_was_when_images_were_first_replaced(tmp_path):
    class Keeping(Watching):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.before = copy.deepcopy(self.net.state_dict())

    module = Keeping()
    augmentation = hiding(guide_network="start", start_epoch=1)
    found = seen_networks(augmentation)
    fit(tmp_path, augmentation, module, epochs=3)
    assert len(found) == 1 + 8
    assert found[0] is module  # the trial
    assert len(set(found[1:])) == 1
    assert equal(dict(found[1].net.state_dict()), dict(module.before))
    assert not equal(dict(module.net.state_dict()), dict(module.before))
    maps = SMOE(found[1])(originals())
    torch.testing.assert_close(torch.cat(module.given[8:]), remove_most_salient(originals(), maps, 0.1))
    assert augmentation.guide.network.of(module) is module  # let go of


def test_a_checkpoints_network_and_one_that_learned_nothing(tmp_path):
    trained = SmallNet()
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    for which in (tmp_path / "weights.pt", "untrained"):
        module = Watching()
        augmentation = hiding(guide_network=which, model="net")
        found = seen_networks(augmentation)
        fit(tmp_path, augmentation, module, epochs=2)
        assert len(set(found)) == 1
        assert not found[0].training
        assert found[0] is not module.net
        assert equal(dict(found[0].state_dict()), dict(trained.state_dict())) is (which != "untrained")
        assert not equal(dict(found[0].state_dict()), dict(module.net.state_dict()))
    other = SmallNet(classes=7)
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(AugmentationConfigurationError, match="of another network"):
        fit(tmp_path, hiding(guide_network=tmp_path / "weights.pt", model="net"), Watching())


def test_random_weights_depend_on_the_seed_alone():
    networks = []
    for seed in (0, 0, 1):
        guide = GuideNetwork("untrained", seed)
        assert guide.settle(SmallNet(), begun=False)
        assert not guide.settle(SmallNet(), begun=True)
        networks.append(dict(guide.of(SmallNet()).state_dict()))
    assert equal(networks[0], networks[1])
    assert not equal(networks[0], networks[2])


@pytest.mark.parametrize("other", [SmallNet(classes=7), SmallNet(channels=1), torch.nn.Linear(3, 2)])
def test_a_checkpoints_guide_of_another_network_is_told_so(other):
    first, resumed = GuideNetwork("start"), GuideNetwork("start")
    first.settle(SmallNet(), begun=True)
    resumed.load_state_dict(first.state_dict())
    with pytest.raises(AugmentationConfigurationError, match=r"which was another one\. Allowed are the layers of then"):
        resumed.settle(other, begun=False)


@pytest.mark.parametrize("stop", [6, 7])
def test_a_resumed_run_has_the_same_fixed_guide(tmp_path, stop):
    data = DataLoader([(image, index) for index, image in enumerate(originals(4))] * 2, batch_size=4)
    settings = {"guide_network": "start", "reuse_epochs": "all", "start_epoch": 2, "probability": 0.7}

    def run(folder, *others, **options):
        module = Watching(learning_rate=0.1)
        module.net.head[1].p = 0.0
        fit(folder, None, module, data, callbacks=[hiding(**settings), *others], epochs=5, **options)
        return module

    saving = ModelCheckpoint(tmp_path, "middle", every_n_train_steps=stop, save_top_k=1)
    whole = run(tmp_path / "whole", saving, enable_checkpointing=True)
    again = run(tmp_path / "again", ckpt_path=tmp_path / "middle.ckpt")
    assert (len(again.given), len(whole.given)) == (10 - stop, 10)
    assert equal(again.given, whole.given[stop:])
    assert equal(again.state_dict(), whole.state_dict())


def test_a_fixed_network_is_asked_once_for_each_image(tmp_path):
    asked = []

    class Counting(SmallNet):
        def forward(self, x):
            if not self.training:
                asked.append(len(x))
            return super().forward(x)

    module = Watching(Counting())
    augmentation = hiding(guide_network="start", reuse_epochs="all", start_epoch=1)
    fit(tmp_path, augmentation, module, loader(shuffle=True), epochs=1)
    trial = sum(asked)
    asked.clear()
    fit(tmp_path, augmentation, Watching(Counting()), loader(shuffle=True), epochs=6)
    assert sum(asked) <= trial + 16 + 4  # and a pass that finds the copy's scales


def test_callbacks_with_actions_survive_copies():
    callback = SaliencyAugmentation("smoe", action=Hide(sigmas=2.0), guide_network="start", film=False)
    for again in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert again.action == callback.action
        assert again.guide.network.which == "start"
