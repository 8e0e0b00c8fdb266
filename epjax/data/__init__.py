"""Images and text from disk to batches: sources (bytes), transforms (one example), pipeline (grain), prefetch."""

from epjax.extras import extra

with extra("train"):
    from epjax.data.open import open_dataset
    from epjax.data.pipeline import Batches, LostWorker, eval_batches, steps_per_epoch, train_batches
    from epjax.data.prefetch import Prefetch, prefetch
    from epjax.data.source import Dataset, Example, Source, Stats
    from epjax.data.text import Vocabulary, Window, open_text
    from epjax.data.transforms import (
        Augmentation,
        BadImage,
        PadCropFlip,
        PadTo,
        RandomCropFlip,
        RandomResizedCropFlip,
        ResizeCentreCrop,
        Transform,
        make_transforms,
    )

__all__ = [
    "Augmentation",
    "BadImage",
    "Batches",
    "Dataset",
    "Example",
    "LostWorker",
    "PadCropFlip",
    "PadTo",
    "Prefetch",
    "RandomCropFlip",
    "RandomResizedCropFlip",
    "ResizeCentreCrop",
    "Source",
    "Stats",
    "Transform",
    "Vocabulary",
    "Window",
    "eval_batches",
    "make_transforms",
    "open_dataset",
    "open_text",
    "prefetch",
    "steps_per_epoch",
    "train_batches",
]
