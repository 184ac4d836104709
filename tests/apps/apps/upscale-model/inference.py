"""A typed setup value, and metadata beside it."""

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, BaseAppSetup, Metadata
from pydantic import Field


class AppSetup(BaseAppSetup):
    model: str = Field(default="small", description="which weights")
    layers: int = Field(default=2, ge=1)


class AppInput(BaseAppInput):
    size: int


class AppOutput(BaseAppOutput):
    size: int
    model: str
    variant: str
    setups: int


class App(BaseApp):
    setups: int = 0

    async def setup(self, setup_data: AppSetup, metadata: Metadata) -> None:
        self.setups += 1
        self.model = setup_data.model
        self.factor = 2**setup_data.layers
        self.variant = metadata.app_variant

    async def run(self, input_data: AppInput) -> AppOutput:
        size = input_data.size * self.factor
        return AppOutput(size=size, model=self.model, variant=self.variant, setups=self.setups)

    async def unload(self) -> None:
        print(f"unloaded {self.model}")
