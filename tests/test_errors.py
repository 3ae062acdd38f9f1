"""What messages are made of."""

from vaecf_lib.errors import counted


def test_numbers_with_their_nouns():
    assert [counted(n, "item") for n in (0, 1, 2, 2000)] == ["0 items", "1 item", "2 items", "2,000 items"]
    assert [counted(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]
