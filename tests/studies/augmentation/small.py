"""A comparison small enough for tests: tiny images, a tiny network, arms of all kinds."""

import numpy as np

from lightning_saliency.studies.augmentation.run import AugmentationConfig, CostConfig, FineTuningConfig


def arm(class_path, **init_args):
    return {"class_path": class_path, "init_args": init_args}


def given(name, **changes):
    """One of the arms, some of its arguments changed."""
    return arm(ARMS[name]["class_path"], **{**ARMS[name]["init_args"], **changes})


ARMS = {
    "plain": None,
    "random_erasing": arm("random_erasing", probability=1.0),
    "cutmix": arm("cutmix", alpha=1.0),
    "mixup": arm("mixup", alpha=0.4),
    "group_cam": arm("group_cam", groups=2),
    "group_cam gradients": arm("group_cam", groups=2, gradients=True),
    "group_cam soft": arm("group_cam", groups=2, soft=True),
    "grad_cam": arm("saliency", explainer="grad_cam"),
    "fast_cam": arm("saliency", explainer="fast_cam"),
    "random mask": arm("group_cam", groups=2, control="random_blobs"),
    "other image": arm("group_cam", groups=2, control="other_image"),
    "cheap": arm("saliency", explainer="random_blobs"),
}


def small_config(tmp_path):
    """Two steps of a tiny network on 16-pixel images of four colours."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("val", 8), ("test", 20)):
        labels = np.arange(count) % 4
        images = generator.integers(0, 120, (count, 16, 16, 3))
        images[..., 0] += 40 * labels[:, None, None]
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(tmp_path / "images.npz", **arrays)
    return AugmentationConfig(
        models={"Net": {"model": "small_cnn", "model_options": {"width": 4}}},
        data={
            "class_path": "lightning_saliency.data.modules.array_images.ArrayImagesDataModule",
            "init_args": {"path": str(tmp_path / "images.npz"), "batch_size": 8, "padding": 2},
        },
        arms={name: ARMS[name] for name in ("plain", "mixup", "grad_cam", "random mask")},
        training=FineTuningConfig(steps=2, validations=1, accelerator="cpu"),
        cost=CostConfig(steps=1, rounds=1),
        seeds=[0, 1],
        controls=["random mask"],
        output=str(tmp_path / "out"),
    )
