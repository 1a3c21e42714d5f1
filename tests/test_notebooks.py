"Tutorials in a plain kernel: pictures show, nothing warns; with --tutorials each runs to its end"
import os, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
kernel = pytest.mark.skipif(not (find_spec('nbclient') and find_spec('ipykernel')),
                            reason='needs nbclient and ipykernel')

def run_book(name, folder, last=None):
    "The tutorial `name` of `flowbook book`, run in a plain kernel up to the first cell with `last` in it"
    import nbformat
    from nbclient import NotebookClient
    from flowbook.cli.book import copy_book
    copy_book(folder, force=True)
    nb = nbformat.read(folder/name, 4)
    for c in nb.cells: c['outputs'] = [] if c.cell_type=='code' else None
    if last: nb.cells = nb.cells[:1 + next(i for i,c in enumerate(nb.cells) if last in c.source)]
    env = {**os.environ, 'PYTHONPATH': str(root)}
    for k in [k for k in env if k.startswith(('FLOWBOOK_', 'MPLBACKEND', 'IN_TEST'))]: del env[k]
    where = {'metadata': {'path': str(folder)}}
    client = NotebookClient(nb, timeout=1200, kernel_name='python3', resources=where)
    client.execute(env=env)
    return nb

def said(cell): return ''.join(o.get('text', '') for o in cell.outputs if o.get('name')=='stderr')

@kernel
@pytest.mark.slow
def test_first_picture_shows(tmp_path):
    nb = run_book('first_flow.ipynb', tmp_path, 'side_by_side(pair')
    shown = [k for o in nb.cells[-1].outputs for k in o.get('data', {})]
    assert 'image/png' in shown, nb.cells[-1].outputs
    assert [said(c) for c in nb.cells if c.cell_type=='code' and said(c)]==[]

QUIET = '''
from flowbook.all import *
from flowbook.data.scenes import SceneConfig
dls = SceneDataset(8, SceneConfig(size=(64,96))).dataloaders(n_valid=4, bs=4)
for name in 'raft_small', 'pwcnet_tiny':
    learn = flow_learner(dls, create_model(name))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
import numpy as np
from flowbook.io.video import VideoWriter
with VideoWriter('x.webm') as w: w.write(np.zeros((64,96,3), np.uint8))
'''

@pytest.mark.slow
def test_no_warning(tmp_path):
    env = {**os.environ, 'PYTHONPATH': str(root)}
    p = subprocess.run([sys.executable, '-W', 'error', '-c', QUIET], cwd=tmp_path, env=env,
                       capture_output=True, text=True, timeout=600)
    assert (p.returncode, p.stderr)==(0, ''), p.stderr[-3000:]

@kernel
@pytest.mark.tutorials
@pytest.mark.parametrize('name', sorted(p.name for p in (root/'nbs/tutorials').glob('[!_.]*.ipynb')))
def test_tutorial_runs(name, tmp_path):
    start = time.time()
    nb = run_book(name, tmp_path)
    print(f'{name}: {time.time()-start:.0f} s')
    assert [said(c) for c in nb.cells if c.cell_type=='code' and said(c)]==[]
