"""A small picture of a picture, with Pillow: a file comes in, a file goes out.

stepwell app deploy examples/apps/thumbnail
curl localhost:8288/apps/run -d '{"app": "examples/thumbnail", "wait": true,
    "input": {"image": "https://www.python.org/static/img/python-logo.png", "width": 64}}'
"""

import io
from typing import Literal

from PIL import Image, ImageOps
from pydantic import BaseModel, Field

from stepwell.apps import App, File


class Thumbnail(App):
    class Input(BaseModel):
        image: File = Field(description="a picture that Pillow can read")
        width: int = Field(default=256, ge=1, le=4096)
        height: int = Field(default=256, ge=1, le=4096)
        format: Literal["png", "jpeg", "webp"] = "png"

    class Output(BaseModel):
        image: File
        width: int
        height: int

    def run(self, input: Input) -> Output:
        """The picture, as large as fits into width and height; never larger than it is."""
        with Image.open(io.BytesIO(input.image.read_bytes())) as opened:
            small = ImageOps.exif_transpose(opened).convert("RGB" if input.format == "jpeg" else "RGBA")
        small.thumbnail((input.width, input.height))
        written = io.BytesIO()
        small.save(written, input.format)
        name = f"thumbnail.{input.format}"
        return self.Output(image=File.of(written.getvalue(), name), width=small.width, height=small.height)
