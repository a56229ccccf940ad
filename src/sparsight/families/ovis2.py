"""Ovis2: visual tokens are mixtures of learned visual words; the words that frame an image are text."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family

OVIS2 = Family(
    name="ovis2",
    classes=("Ovis2ForConditionalGeneration", "Ovis2Model"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
)
