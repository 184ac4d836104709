"""The official TypeScript SDK, unmodified, against Stepwell."""

import pytest

from tests.official.behaviour import OfficialSdk, OfficialSdkAcrossRestarts

pytestmark = pytest.mark.official


class TestTypeScript(OfficialSdk):
    kind = "typescript"
    error_name = "RangeError"
    step_error = ("RangeError", "no such row")


class TestTypeScriptAcrossRestarts(OfficialSdkAcrossRestarts):
    kind = "typescript"
