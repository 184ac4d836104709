"""Small things that are everywhere."""

import random
from datetime import UTC, datetime

from stepwell.wire.infsh.text import instant, short_id


def test_instants_are_exact_to_the_millisecond() -> None:
    luck = random.Random(1)
    for at in (0, 1, 999, 1_000, *(luck.randrange(4_000_000_000_000) for _ in range(2_000))):
        text = instant(at)
        assert len(text) == len("2026-11-20T10:00:00.250Z")
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert round(moment.timestamp() * 1000) == at
    assert instant(None) is None


def test_a_short_id_is_the_end_of_a_long_one() -> None:
    assert short_id("01M7X4E54P3F6PFTK23PZVN68Z") == "3pzvn68z"
