"""GOT-OCR 2: pages, whole or in tiles, of 256 visual tokens each."""

from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family

GOT_OCR2 = Family(
    name="got-ocr2",
    classes=("GotOcr2ForConditionalGeneration", "GotOcr2Model"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
)
