"""RF-DETR's image processor without torchvision, which transformers' own needs.

It does as Deformable DETR's does, but resizes floats without smoothing (no antialias) and keeps as many boxes as the
model has queries. So this one resizes, and leaves all else, the checkpoint's settings too, to Deformable DETR's.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.core.errors import UserError
from pipeline.extractors import _torch

MODEL_TYPE = "rf_detr"


class RfDetrImageProcessor:
    """Pixels and boxes of transformers' class of this name.

    Args:
        folder: the checkpoint.
        name: what params call it.

    Raises:
        UserError: the folder holds no settings, or other ones than RF-DETR's.
    """

    def __init__(self, folder: Path, name: str) -> None:
        from transformers import DeformableDetrImageProcessorPil

        self._rest = _torch.part(DeformableDetrImageProcessorPil, "image processor", folder, name)
        self.size: Any = self._rest.size
        found = (self._rest.do_resize, self._rest.resample)
        if found != (True, Image.Resampling.BILINEAR):
            raise UserError(
                f"checkpoint {name}: its preprocessor_config.json has do_resize {found[0]} and resample {found[1]}; "
                "RF-DETR's pictures are resized (true), bilinearly (2)"
            )

    def __call__(self, images: Image.Image, **options: Any) -> Any:
        """One RGB picture resized and normalised, as `pixel_values`, *Shape:* (1, 3, height, width)."""
        import numpy as np
        import torch
        from torch.nn.functional import interpolate
        from transformers.image_transforms import get_size_with_aspect_ratio

        target = (self.size.height, self.size.width)
        if self.size.shortest_edge:
            target = get_size_with_aspect_ratio(
                (images.height, images.width), self.size.shortest_edge, self.size.longest_edge
            )
        pixels = torch.from_numpy(np.array(images)).permute(2, 0, 1)[None].float()
        resized = interpolate(pixels, target, mode="bilinear")[0].numpy()
        return self._rest(images=resized, do_resize=False, **{**options, "input_data_format": "channels_first"})

    def post_process_object_detection(self, outputs: Any, **options: Any) -> Any:
        """The boxes above a threshold, of as many as the model has queries."""
        return self._rest.post_process_object_detection(outputs, top_k=outputs.logits.shape[1], **options)
