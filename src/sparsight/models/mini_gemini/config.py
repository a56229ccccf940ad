"""Config of Mini-Gemini: LLaVA's, with a second image encoder and a grid of tiles.

Private details of transformers touched here: `LlavaConfig` is a dataclass whose `__post_init__`
builds nested configs, and `to_dict` writes nested configs as dicts.
"""

from typing import Any

from transformers import ConvNextConfig, LlavaConfig, PretrainedConfig

from sparsight.errors import ModelError, SettingError

# model types of the authors' folders, and of the text model inside
DECODERS = {
    "mgm": "llama",
    "mgm_gemma": "gemma",
    "mgm_mixtral": "mixtral",
    "mgm_mistral": "mistral",
    "mini_gemini": "llama",
    "mini_gemini_gemma": "gemma",
    "mini_gemini_mixtral": "mixtral",
    "mini_gemini_mistral": "mistral",
}
STRIDE = 4  # px on a side of a cell of the high-resolution features


class MiniGeminiConfig(LlavaConfig):  # type: ignore[no-untyped-call]
    """Config of a converted Mini-Gemini.

    Source: Li et al., Mini-Gemini, arXiv 2403.18814; fields as the authors' config.json has them.

    Args:
        high_res_config: of the ConvNeXt that reads the high-resolution picture.
        image_grid: tiles on a side of the picture: 1, or 2 in the HD models.
        image_global: whether an overview of the whole picture stands in front of the tiles.
        high_res_size: side of the high-resolution picture, px.
    """

    model_type = "mini_gemini_vlm"  # none of DECODERS: those are folders that were not converted
    high_res_config: dict[str, Any] | PretrainedConfig | None = None
    image_grid: int = 1
    image_global: bool = False
    high_res_size: int = 768

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the nested configs."""
        if not isinstance(self.high_res_config, PretrainedConfig):
            self.high_res_config = ConvNextConfig(**(self.high_res_config or {}))
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self.architectures = self.architectures or ["MiniGeminiForConditionalGeneration"]

    @property
    def tiles(self) -> int:
        """How many tiles a picture has, its overview included."""
        return int(self.image_grid**2 + self.image_global)

    @property
    def patches(self) -> int:
        """How many patches there are on a side of a tile."""
        vision: Any = self.vision_config
        return int(vision.image_size // vision.patch_size)

    def check_sizes(self) -> None:
        """Check that the sizes of tiles and of the high-resolution picture fit each other.

        Raises: SettingError: a patch is not given a whole number of high-resolution features, or
            the number of visual tokens is not that of the patches of all tiles.
        """
        cells = self.patches * self.image_grid * STRIDE
        if self.image_grid < 1 or not cells or self.high_res_size % cells:
            raise SettingError(
                f"high_res_size={self.high_res_size} does not fit image_grid={self.image_grid} "
                f"with {self.patches} patches on a side of a tile; give a multiple of "
                f"{cells or 'STRIDE'} px, and a grid of 1 or more."
            )
        count = self.tiles * self.patches**2
        if self.image_seq_length != count:
            raise SettingError(
                f"image_seq_length={self.image_seq_length}, and {self.tiles} tiles of "
                f"{self.patches} x {self.patches} patches make {count} visual tokens; give {count}."
            )


class UnconvertedConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Config of an authors' folder, which is refused: its weights have other names."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Refuse the folder.

        Raises: ModelError: always.
        """
        del kwargs
        raise ModelError(
            f"this is a Mini-Gemini folder as its authors save it (model_type "
            f"{config_dict.get('model_type')!r}); run `sparsight convert-mgm IN OUT` first, and "
            "load OUT."
        )
