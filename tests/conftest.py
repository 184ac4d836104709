"""What every test may rely on, whatever the machine it runs on is set to."""

import os
from collections.abc import Iterator

import pytest

# Before any folder imports them, whichever comes first.
pytest.register_assert_rewrite("tests.official.behaviour", "tests.official.harness", "tests.sdk_e2e.harness")

from stepwell.testing.provider import Provider  # noqa: E402
from tests.postgres import postgres_url  # noqa: E402

__all__ = ["postgres_url"]

# A developer's own servers, keys and proxies must not reach a test, and no test may reach them. STEPWELL_TEST_*
# is how a test is told on purpose, for instance which PostgreSQL it may use.
for name in list(os.environ):
    if name.startswith(("STEPWELL_", "INNGEST_", "INFERENCE_")) and not name.startswith("STEPWELL_TEST_"):
        del os.environ[name]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1,::1"


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A stand-in for AI providers of a test's own."""
    with Provider() as provider:
        yield provider
