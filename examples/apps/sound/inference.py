"""Cuts and converts a recording with ffmpeg, which is a package of the system: `packages.txt` names it.

apt-get install ffmpeg
stepwell app deploy examples/apps/sound
curl localhost:8288/apps/run -d '{"app": "examples/sound", "wait": true,
    "input": {"recording": "https://example.com/talk.mp3", "start": 60, "seconds": 10, "format": "wav"}}'
"""

import asyncio
import re
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from stepwell.apps import App, File


class Sound(App):
    class Input(BaseModel):
        recording: File = Field(description="sound or film that ffmpeg can read")
        start: float = Field(default=0, ge=0, description="seconds to leave out at the beginning")
        seconds: float | None = Field(default=None, gt=0, description="how much to keep; all, if not said")
        format: Literal["wav", "mp3", "ogg", "flac"] = "wav"
        rate: int = Field(default=16_000, ge=8_000, le=48_000, description="samples in a second")

    class Output(BaseModel):
        recording: File
        seconds: float

    async def setup(self) -> None:
        if shutil.which("ffmpeg") is None:
            raise RuntimeError("this app needs ffmpeg, which this machine does not have: apt-get install ffmpeg")

    async def run(self, input: Input) -> Output:
        """One channel of it, from `start` on."""
        source, folder = await input.recording.fetch(), Path(tempfile.mkdtemp(prefix="sound-"))
        target = folder / f"cut.{input.format}"
        options = ["-ss", str(input.start), *(["-t", str(input.seconds)] if input.seconds else [])]
        command = ["ffmpeg", "-hide_banner", "-nostdin", *options, "-i", f"file:{source}", "-vn", "-ac", "1"]
        command += ["-ar", str(input.rate), str(target)]
        self.process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await self.process.communicate()
        told = said.decode(errors="replace")
        if self.process.returncode != 0:
            raise RuntimeError(f"ffmpeg cannot convert it: {told.strip().splitlines()[-1]}")
        hours, minutes, seconds = re.findall(r"time=(\d+):(\d+):([\d.]+)", told)[-1]
        length = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        return self.Output(recording=File(target), seconds=length)

    async def on_cancel(self) -> None:
        self.process.terminate()
