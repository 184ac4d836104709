from collections.abc import AsyncIterator, Iterator

import pytest

from stepwell.testing.provider import Provider
from tests.gateway.errands import Asking


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    asking = Asking()
    yield asking
    await asking.gateway.close()


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: Provider) -> Provider:
    shared_provider.requests.clear()
    shared_provider.answer()
    return shared_provider
