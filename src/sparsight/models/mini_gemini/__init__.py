"""Mini-Gemini (MGM), which transformers does not have: model, processor and converter.

Importing this registers it with AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
and AutoImageProcessor. Weights are nobody's here: `convert` turns an authors' folder into one that
`from_pretrained` loads. Private detail of transformers touched here: where AutoImageProcessor lies,
as the public name needs torchvision in old releases.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from sparsight.models.mini_gemini.config import DECODERS, MiniGeminiConfig, UnconvertedConfig
from sparsight.models.mini_gemini.converter import Converted, convert
from sparsight.models.mini_gemini.images import MiniGeminiImageProcessor, prepare
from sparsight.models.mini_gemini.model import MiniGeminiForConditionalGeneration, MiniGeminiModel
from sparsight.models.mini_gemini.processor import MiniGeminiProcessor

__all__ = [
    "Converted",
    "MiniGeminiConfig",
    "MiniGeminiForConditionalGeneration",
    "MiniGeminiImageProcessor",
    "MiniGeminiModel",
    "MiniGeminiProcessor",
    "convert",
    "prepare",
]

AutoConfig.register(MiniGeminiConfig.model_type, MiniGeminiConfig, exist_ok=True)
AutoModel.register(MiniGeminiConfig, MiniGeminiModel, exist_ok=True)
AutoModelForImageTextToText.register(
    MiniGeminiConfig, MiniGeminiForConditionalGeneration, exist_ok=True
)
AutoImageProcessor.register(
    MiniGeminiConfig, image_processor_classes={"pil": MiniGeminiImageProcessor}, exist_ok=True
)
AutoProcessor.register(  # type: ignore[no-untyped-call]
    MiniGeminiConfig, MiniGeminiProcessor, exist_ok=True
)
for _kind in DECODERS:
    _refused = type("UnconvertedConfig", (UnconvertedConfig,), {"model_type": _kind})
    AutoConfig.register(_kind, _refused, exist_ok=True)
