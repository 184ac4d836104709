"""Takes pictures and makes others."""

import os
import tempfile
from typing import Any, Optional

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, File, ImageMeta, OutputMeta
from PIL import Image
from pydantic import Field


class AppInput(BaseAppInput):
    image: File = Field(description="the picture", json_schema_extra={"contentMediaType": "image/*"})
    sizes: list[int] = Field(default=[8], max_length=10)
    mask: Optional[File] = None
    note: Any = None


class AppOutput(BaseAppOutput):
    image: File
    resized: list[File] = []
    by_size: dict[str, File] = {}
    loose: Any = None
    note: Any = None
    has_mask: bool = False


class App(BaseApp):
    async def run(self, input_data: AppInput) -> AppOutput:
        folder = tempfile.mkdtemp()
        with Image.open(input_data.image.path) as image:
            resized = []
            for size in input_data.sizes:
                path = os.path.join(folder, f"{size}.png")
                image.resize((size, size)).save(path)
                resized.append(File(path=path))
            meta = OutputMeta(outputs=[ImageMeta(width=size, height=size) for size in input_data.sizes])
        return AppOutput(
            image=resized[0],
            resized=resized,
            by_size={str(size): file for size, file in zip(input_data.sizes, resized)},
            loose=[resized[0], "text"],
            note=input_data.note,
            has_mask=input_data.mask is not None,
            output_meta=meta,
        )
