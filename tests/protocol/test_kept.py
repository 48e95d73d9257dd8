from __future__ import annotations

import pytest

from abruzzi.protocol.kept import KeptList, made_of


def test_what_is_made_of_a_kept_value_is_made_once() -> None:
    kept = KeptList([1, 2])
    made = made_of(kept, sorted)
    assert made == [1, 2] and made_of(kept, sorted) is made
    assert made_of(kept, len) == 2
    assert made_of(KeptList([1, 2]), sorted) is not made


def test_others_may_change_and_are_read_each_time() -> None:
    values = [1]
    assert made_of(values, len) == 1
    values.append(2)
    assert made_of(values, len) == 2


def test_what_fails_is_tried_again() -> None:
    kept, calls = KeptList(["x"]), []

    def fail(values: list[str]) -> None:
        calls.append(values)
        raise ValueError(values[0])

    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            made_of(kept, fail)
    assert len(calls) == 2
