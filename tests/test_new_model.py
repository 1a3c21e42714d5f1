"A new model touches five places by hand: its chapter, its line in the sidebar, its rows of weights, its recipes (in the chapter), the changelog"
import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
CHAPTER = '''# Toy flow
> Every pixel moves by the same learned vector
---
#| default_exp models.toyflow
---
#| hide
from flowbook.models.contract import check_estimator
---
#| export
import torch
from torch import nn
from flowbook.models.base import Estimator, FlowOutput
from flowbook.models.registry import register_model
from flowbook.models.schedules import one_cycle, recipe_row
---
#| export
class ToyFlow(Estimator):
    "One vector for all pixels"
    family, paper = 'Toy flow', 'https://example.org/toy'
    loss = dict(type='EndPointError')
    def __init__(self,
        start:float=1. # First value of both components, pixels
    ):
        super().__init__()
        self.uv = nn.Parameter(torch.full((2,), start))

    def forward(self, img1, img2, *, iters=None, flow_init=None, all_flows=None):
        self.check_images(img1, img2)
        self.refuse_start(iters=iters, flow_init=flow_init)
        b,_,h,w = img1.shape
        flow = self.uv.float().view(1, 2, 1, 1).expand(b, 2, h, w)
        return FlowOutput(flow, [flow])
---
#| export
@register_model(parameters=2)
def toyflow(
    **kwargs # Numbers of `ToyFlow`
)->ToyFlow:  # The model
    "Toy flow, one vector"
    return ToyFlow(**kwargs)
---
check_estimator('toyflow')
---
#| export
recipe_row('toyflow_chairs', 'toyflow', 'flyingchairs_384x448', one_cycle(1e-4, 10, 1e-4, every=1))
'''
WEIGHTS = 'toyflow,chairs,the authors,FlyingChairs,9.5,,,,,,,,,,,,MIT,,,,,,https://example.org/toy,https://example.org/toy.pth'

def write_chapter(path):
    "The chapter as a notebook"
    sources = CHAPTER.split('\n---\n')
    cells = [dict(cell_type='code', execution_count=None, outputs=[], id=f'toy{i:05}', metadata={}, source=s)
             for i,s in enumerate(sources)]
    cells[0] = dict(cell_type='markdown', id='toy', metadata={}, source=sources[0])
    kernel = dict(display_name='python3', language='python', name='python3')
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))

def replace(path, old, new):
    text = path.read_text(encoding='utf-8')
    assert text.count(old)==1, (path.name, old)
    path.write_text(text.replace(old, new), encoding='utf-8')

LOOK = '''
import json, os, sys
from pathlib import Path
here = Path.cwd()
sys.path[:0] = [str(here/'tools'), str(here/'tests')]
found = {}
from flowbook.models.registry import list_models
from flowbook.models.published import list_weights
from flowbook.recipes.base import get_recipe, list_recipes
found['models'] = 'toyflow' in list_models()
found['weights'] = [o.name for o in list_weights('toyflow')]
found['recipe'] = get_recipe('toyflow_chairs')['model']['name']
import test_zoo
found['contract'] = 'toyflow' in test_zoo.NAMES and 'toyflow' in test_zoo.lightest()
from typer.testing import CliRunner
from flowbook.cli.main import app
run = lambda *args: CliRunner().invoke(app, args)
res = run('bench', 'toyflow', '--size', '64', '64', '--runs', '1', '--no-memory', '--json', '--device', 'cpu')
assert res.exit_code==0, (res.output, res.exception)
found['bench'] = [r['model'] for r in json.loads(res.stdout[res.stdout.index('{'):])['rows']]
os.chdir(here/'nbs')
cells = [''.join(c['source']) for c in json.loads(Path('index.ipynb').read_text())['cells'] if c['cell_type']=='code']
table = next(o for o in cells if '# a line for each family' in o)
scope = {}
exec(cells[0], scope)
*lines, last = table.split('\\n')
exec('\\n'.join(lines), scope)
found['index'] = [l for l in eval(last, scope).data.splitlines() if 'toyflow' in l]
import docs   # last: it runs the chapter, whose model then wins in this process
page = docs.notebook_md('models/58_toyflow.ipynb', lambda data, ext: '')
found['docs'] = page[0]['title'], 'toyflow' in page[1], any('models/58_toyflow.ipynb' in o for _,o in docs.pages_listed())
print('found', json.dumps(found))
'''

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the repository with a toy model, added in the five places and nowhere else"
    to = tmp_path_factory.mktemp('repo')/'flowbook'
    skip = shutil.ignore_patterns('.*', '_docs', '_proc', 'dist', 'build', '*.egg-info', '__pycache__', 'parity')
    shutil.copytree(root, to, ignore=skip, symlinks=True)
    write_chapter(to/'nbs/models/58_toyflow.ipynb')
    replace(to/'_quarto.yml', '          - models/50_memfof.ipynb\n', '          - models/50_memfof.ipynb\n          - models/58_toyflow.ipynb\n')
    with open(to/'flowbook/assets/published.csv', 'a', encoding='utf-8') as f: f.write(WEIGHTS+'\n')
    replace(to/'CHANGELOG.md', '## 0.1.0, unreleased\n', '## 0.1.0, unreleased\n\n- **Toy flow**: a model.\n')
    env = {**os.environ, 'PYTHONPATH': str(to)}
    export = Path(sys.executable).parent/'nbdev_export', '--path', 'nbs/models/58_toyflow.ipynb'   # the others are as they were
    subprocess.run(export, cwd=to, env=env, check=True, capture_output=True)
    res = subprocess.run([sys.executable, '-c', LOOK], cwd=to, env=env, capture_output=True, text=True, timeout=900)
    assert res.returncode==0, res.stderr[-3000:]
    return json.loads(res.stdout.rpartition('found ')[2])

@pytest.mark.slow
def test_five_places(copy):
    assert copy.pop('index')==['| [Toy flow](models/58_toyflow.ipynb) | `toyflow` | - |']
    assert copy==dict(models=True, weights=['chairs'], recipe='toyflow', contract=True, bench=['toyflow'],
                      docs=['Toy flow', True, True])
