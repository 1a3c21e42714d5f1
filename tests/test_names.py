"Public names can be imported from where they were before the rooms of today, with a warning where they have moved"
import importlib, re, warnings
from operator import attrgetter
from pathlib import Path
import pytest
from flowbook.core.moved import GONE, moved_names

lines = (Path(__file__).parent/'names_before.txt').read_text().splitlines()[1:]
OLD = {m: names.split() for m,names in (l.split(': ') for l in lines)}

@pytest.mark.parametrize('module', OLD)
def test_old_names(module):
    old, moved = importlib.import_module(f'flowbook.{module}'), moved_names().get(f'flowbook.{module}', {})
    for name in OLD[module]:
        if instead := GONE.get(f'{module}.{name}'):
            with pytest.raises(AttributeError, match=re.escape(instead)): getattr(old, name)
            continue
        warned = name in moved and name not in vars(old) # some modules import what they once defined
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter('always')
            found = getattr(old, name)
        said = [w for w in heard if w.category is DeprecationWarning and 'old path' in str(w.message)]
        assert len(said)==warned, f'{module}.{name}: {len(said)} warnings'
        if warned:
            assert Path(said[0].filename)==Path(__file__), 'the warning points at who asks'
            assert found is attrgetter(moved[name][1])(importlib.import_module(moved[name][0]))

def test_nothing_in_the_table_that_never_was():
    for module, names in moved_names().items():
        assert {*names} <= {*OLD[module.removeprefix('flowbook.')]}, module
