"""What is remembered of served requests: long enough, and not for ever."""

from __future__ import annotations

from stepwell.sdk.serve.replayed import ReplayMemory


def mark(number: int) -> str:
    return f"{number:064x}"[::-1]


def test_a_request_is_new_once_and_again_when_its_signature_has_expired() -> None:
    memory = ReplayMemory()
    assert memory.first_time(mark(1), until_s=400, now_s=100)
    assert not memory.first_time(mark(1), until_s=400, now_s=100)
    assert not memory.first_time(mark(1), until_s=400, now_s=400)
    assert memory.first_time(mark(1), until_s=800, now_s=401)
    assert memory.first_time(mark(2), until_s=800, now_s=401)


def test_memory_shrinks_as_signatures_expire() -> None:
    memory = ReplayMemory()
    for number in range(1000):
        assert memory.first_time(mark(number), until_s=300, now_s=0)
    for number in range(1000, 2000):
        assert memory.first_time(mark(number), until_s=900, now_s=600)
    assert len(memory._until) < 1010
    assert not memory.first_time(mark(1999), until_s=900, now_s=600)


def test_memory_has_a_limit_and_forgets_the_oldest_first() -> None:
    memory = ReplayMemory(most=10)
    for number in range(30):
        assert memory.first_time(mark(number), until_s=300, now_s=0)
        assert len(memory._until) <= 11
    assert not memory.first_time(mark(29), until_s=300, now_s=0)
    assert memory.first_time(mark(1), until_s=300, now_s=0)
