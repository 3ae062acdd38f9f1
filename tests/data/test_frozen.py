"""Data are values: what was read or cut is never changed in place."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

from vaecf_lib import data

MODULES = [importlib.import_module(f"{data.__name__}.{module.name}") for module in pkgutil.iter_modules(data.__path__)]
CLASSES = [
    made
    for module in MODULES
    for _, made in inspect.getmembers(module, dataclasses.is_dataclass)
    if made.__module__ == module.__name__
]


@pytest.mark.parametrize("made", CLASSES, ids=lambda made: made.__name__)
def test_no_field_can_be_set(made):
    """Digests, offsets and the order by item are computed once and kept: of a changed object they would be wrong."""
    name = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(object.__new__(made), name, None)


def test_every_dataclass_is_looked_at():
    public = {made for made in map(data.__dict__.get, data.__all__) if dataclasses.is_dataclass(made)}
    assert public <= set(CLASSES)
