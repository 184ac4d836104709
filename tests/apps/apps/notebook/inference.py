"""Remembers what it was told, and can say and take back all of it."""

from typing import Any, ClassVar

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput


class AppInput(BaseAppInput):
    note: str


class AppOutput(BaseAppOutput):
    notes: list[str]


class App(BaseApp):
    session: ClassVar[str] = "snapshot"

    async def setup(self) -> None:
        self.notes: list[str] = []

    async def run(self, input_data: AppInput) -> AppOutput:
        self.notes.append(input_data.note)
        return AppOutput(notes=self.notes)

    async def snapshot(self) -> Any:
        return {"notes": self.notes, "raw": b"\x00\xff"}

    async def restore(self, state: Any) -> None:
        assert state["raw"] == b"\x00\xff"
        self.notes = list(state["notes"])
