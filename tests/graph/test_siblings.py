"""Equal neighbours with numbers for names are drawn as one."""

from __future__ import annotations

from tracer.graph.siblings import folded_paths

NET = ("net",)


def shown(*names: str, contents: dict[str, str] | None = None) -> list[str]:
    """The shown names of children of a net."""
    paths = [(*NET, *name.split(".")) for name in names]
    held = {(*NET, *name.split(".")): what for name, what in (contents or {}).items()}
    folded = folded_paths(paths, held)
    return [".".join(folded[path][0][1:]) for path in paths]


def test_equal_neighbours_are_one() -> None:
    assert shown("0", "1", "2") == ["[0-2]", "[0-2]", "[0-2]"]


def test_numbers_are_ordered_as_numbers() -> None:
    assert shown(*(str(n) for n in (10, 9, 2, 8))) == ["[8-10]", "[8-10]", "2", "[8-10]"]


def test_a_gap_or_another_content_parts_them() -> None:
    assert shown("0", "1", "3") == ["[0-1]", "[0-1]", "3"]
    assert shown("0", "1", "2", contents={"1": "other"}) == ["0", "1", "2"]


def test_what_differs_deep_inside_parts_them() -> None:
    names = ("0.a.b", "1.a.b", "2.a.b")

    assert shown(*names) == ["[0-2].a.b"] * 3
    assert shown(*names, contents={"2.a.b": "other"}) == ["[0-1].a.b", "[0-1].a.b", "2.a.b"]


def test_names_that_are_no_numbers_stay_apart() -> None:
    assert shown("left", "right") == ["left", "right"]


def test_copies_multiply() -> None:
    paths = [(*NET, str(i), str(j)) for i in range(3) for j in range(2)]
    folded = folded_paths(paths, {})

    assert folded[("net", "0", "0")] == (("net", "[0-2]", "[0-1]"), 6)
    assert folded[("net", "2")] == (("net", "[0-2]"), 3)
