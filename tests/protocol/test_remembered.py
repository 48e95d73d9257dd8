from __future__ import annotations

import pytest

from abruzzi.protocol.remembered import Remembered


def test_what_was_made_is_kept_within_the_bound_the_latest_first() -> None:
    made: list[str] = []
    remembered = Remembered(lambda text: made.append(text) or text.upper(), most=3 * 1000)  # type: ignore[func-returns-value]
    texts = [letter * 500 for letter in "abc"]
    assert [remembered(text) for text in (*texts, *texts)] == [text.upper() for text in (*texts, *texts)]
    assert made == texts
    remembered("d" * 500)
    assert remembered("c" * 500) and len(made) == 4  # still there
    remembered("a" * 500)
    assert len(made) == 5  # was dropped
    remembered("x" * 10_000)
    assert remembered("x" * 10_000) and len(made) == 6  # the latest stays, however long


def test_what_fails_is_not_remembered() -> None:
    remembered = Remembered(int, most=1000)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            remembered("x")
    assert remembered("7") == 7


def test_room_for_one_more_costs_the_same_however_many_there_are() -> None:
    looked_at = 0

    class Counted(str):
        def __len__(self) -> int:
            nonlocal looked_at
            looked_at += 1
            return super().__len__()

    remembered = Remembered(lambda text: text, most=1000 * 510)
    for i in range(5000):
        remembered(Counted(f"{i:010}"))
    assert looked_at < 20 * 5000
    assert remembered("0000004999") and looked_at < 20 * 5000
