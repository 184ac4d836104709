"""The official TypeScript SDK, unmodified, against Stepwell."""

import pytest

from tests.official.behaviour import OfficialSdk, OfficialSdkAcrossRestarts
from tests.official.harness import Server, Service

pytestmark = pytest.mark.official


class TestTypeScript(OfficialSdk):
    kind = "typescript"
    error_name = "RangeError"
    step_error = ("RangeError", "no such row")

    # Called once for each step, this SDK alone needs a minute and a half: it lets the event loop turn for each of the
    # steps that it replays. Reporting steps while the function goes on (checkpointing) avoids the replays.
    @pytest.mark.long
    def test_a_thousand_sequential_steps_run_once_each(self, server: Server, service: Service) -> None:
        super().test_a_thousand_sequential_steps_run_once_each(server, service)


class TestTypeScriptAcrossRestarts(OfficialSdkAcrossRestarts):
    kind = "typescript"
