"A chapter tests the chapter: what a running notebook defines wins over what the package has exported, whatever kind of name it is"
import ast, json, os, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
# chapter, definition that is broken in the notebook alone, and a cell that asks for it by name
CASES = dict(
    model=('models/20_raft', 'raft', "from flowbook.models.zoo import create_model; create_model('raft')"),
    part=('layers/30_recurrent', 'FlowHead', "from flowbook.models.parts import create_part; create_part('update', dict(type='FlowHead'))"),
    loss=('train/10_losses', 'SequenceLoss', "from flowbook.models.zoo import create_model; create_loss(dict(type='SequenceLoss'), create_model('zero'))"),
    hook=('train/28_callbacks', 'Accumulate', "create_hook(dict(type='Accumulate', n=2))"),
    dataset=('data/04_folder', 'FlowFolder', "from flowbook.data.base import create_dataset; create_dataset('folder', '.')"),
    transform=('augment/20_photometric', 'RandomGamma', "from flowbook.augment.base import create_transform; create_transform('RandomGamma')"),
    augmentation=('augment/60_pipelines', 'light_augmentation', "register_augmentation('mine', light_augmentation); create_augmentation('mine')"),
    version=('augment/74_batch_versions', '_jitter', "import torch; from flowbook.augment.batch import BatchAugment; from flowbook.augment.photometric import ColorJitter; BatchAugment(ColorJitter())(tuple(torch.rand(2,1,3,8,8)))"),
    recipe=('recipes/20_scenes', 'quickstart', "from flowbook.recipes.base import get_recipe; get_recipe('quickstart')"),
    reader=('mmflow/22_networks', '_raft', "from flowbook.mmflow.networks import translate_model; translate_model(dict(type='RAFT'))"),
)

def source(cell): return ''.join(cell['source'])

def definition(cell, name):
    "The class or function called `name` that `cell` exports, None: it does not"
    if not source(cell).startswith('#| export'): return None
    made = (o for o in ast.parse(source(cell)).body if isinstance(o, (ast.ClassDef, ast.FunctionDef)))
    return next((o for o in made if o.name==name), None)

def broken(cell, name):
    "The source of `cell` with a class or function that fails when it is used"
    lines,node = source(cell).splitlines(),definition(cell, name)
    if isinstance(node, ast.ClassDef): # the last `__init__` of a class counts
        lines.insert(node.end_lineno, "    def __init__(self, *args, **kwargs): raise RuntimeError('broken here')")
    else: lines.insert(node.body[0].end_lineno, "    raise RuntimeError('broken here')")
    return '\n'.join(lines)

def abridged(kind, change, to):
    "Write the exported cells of the chapter of `kind`, with or without the `change`, and a cell that asks for the name"
    chapter, name, ask = CASES[kind]
    nb = json.loads((root/f'nbs/{chapter}.ipynb').read_text(encoding='utf-8'))
    nb['cells'] = [c for c in nb['cells'] if source(c).startswith('#| export')]
    cell, = (c for c in nb['cells'] if definition(c, name))
    if change: cell['source'] = broken(cell, name)
    nb['cells'].append({**cell, 'id': 'ask', 'source': f"try: {ask}\nexcept Exception as e: print('answer:', {kind!r}, repr(e)[:200])\nelse: print('answer:', {kind!r}, 'built')"})
    path = to/f"{kind}{'_broken'*change}.ipynb"
    path.write_text(json.dumps(nb), encoding='utf-8')
    return path

RUN = '''
import sys
from pathlib import Path
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
for path in map(Path, sys.argv[1:]):
    nb = read_nb(path)
    try: CaptureShell(path).run_all(nb, exc_stop=True)
    except Exception as e: print(path.stem, '|', repr(e), flush=True) # registering has failed
    else: print(path.stem, '|', ''.join(''.join(o.get('text', '')) for o in nb.cells[-1].outputs).strip(), flush=True)
'''

@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    "What each chapter answers, as it is and broken"
    to = tmp_path_factory.mktemp('chapters')
    paths = [abridged(kind, change, to) for kind in CASES for change in (False, True)]
    res = subprocess.run([sys.executable, '-c', RUN, *map(str, paths)], cwd=root, capture_output=True, text=True,
                         env={**os.environ, 'PYTHONPATH': str(root)}, timeout=600)
    assert res.returncode==0, res.stderr[-3000:]
    return dict(l.split(' | ', 1) for l in res.stdout.splitlines() if ' | ' in l)

@pytest.mark.parametrize('kind', CASES)
def test_the_notebook_wins(kind, answers):
    assert 'broken here' in answers[f'{kind}_broken'], answers[f'{kind}_broken']
    assert 'broken here' not in answers[kind], answers[kind]
