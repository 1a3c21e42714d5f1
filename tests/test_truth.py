"Stored outputs are those of today: `tools/refresh.py --check` finds what differs, and whose outputs may be out of date"
import base64, io, json, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest

root = Path(__file__).resolve().parent.parent
pytest.importorskip('nbdev')
sys.path.insert(0, str(root/'tools'))
import refresh # noqa: E402

def picture(a):
    from PIL import Image
    buf = io.BytesIO()
    Image.fromarray(a).save(buf, 'jpeg', quality=85)
    return [dict(output_type='display_data', data={'image/jpeg': base64.b64encode(buf.getvalue()).decode()})]

def title(a, said):
    "Image `a` with a line of text of the size that a title has"
    from PIL import Image, ImageDraw
    img = Image.fromarray(a)
    ImageDraw.Draw(img).rectangle((0, 0, 160, 16), fill='white')
    ImageDraw.Draw(img).text((40, 2), said, fill='black', font_size=12)
    return np.asarray(img)

def text(s): return [dict(output_type='stream', name='stdout', text=s.splitlines(True))]

@pytest.mark.parametrize('old,new', [
    ('EPE 0.87 px', 'EPE 0.88 px'), ('Fl-all 6.0 %', 'Fl-all 6.2 %'), ('loss 3.10', 'loss 3.2'),
    ('at most 1.2e-07', 'at most 3e-06'), ('took 3.2 s', 'took 14.7 s'), ('12 ms', '7.5 ms'),
    ('0:03', '1:12'), ('3 fps', '9 fps'), ('3.1 times', '2.2 times'), ('2026-11-29', '2026-12-01'),
    ('on http://127.0.0.1:8000', 'on http://127.0.0.1:41235'), ('/tmp/tmpab12cd34/a.png', '/tmp/tmpxy12cd34/a.png'), ('/srv/a/b.png', '/var/x/y.png'),
    ('torch 2.9.1', 'torch 2.10.0+cpu'), ('<A at 0x7f3aa0b1c2d3>', '<A>'), ('a   1\n', 'a 1'),
    ('| model | ms | EPE |\n|---|---|---|\n| a | 12 | 0.5 |', '| model | ms | EPE |\n|---|----|---|\n| a | 1345 | 0.5 |')])
def test_the_same(old, new): assert refresh.outputs_differ(text(old), text(new))==[]

@pytest.mark.parametrize('old,new,said', [
    ('EPE 0.87 px', 'EPE 0.51 px', '0.87 is 0.51'), ('Fl-all 6.0 %', 'Fl-all 8.5 %', '6.0 is 8.5'),
    ('u -0.5', 'u 0.5', '-0.5 is 0.5'), ('18 models', '19 models', '18 is 19'), ('0.004', '0.0004', '0.004 is 0.0004'),
    ('dis wins', 'raft wins', 'raft wins'), ('a 1 2', 'a 1', 'text'),
    ('| model | ms | EPE |\n|---|---|---|\n| a | 12 | 0.5 |', '| model | ms | EPE |\n|---|---|---|\n| a | 12 | 0.7 |', '0.5 is 0.7')])
def test_another_text(old, new, said):
    [found] = refresh.outputs_differ(text(old), text(new))
    assert said in found

def test_pictures():
    rng = np.random.default_rng(0)
    a = np.kron(rng.integers(0, 255, (12, 20, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    noisy = np.clip(a + rng.normal(0, 2, a.shape), 0, 255).astype(np.uint8)
    assert refresh.outputs_differ(picture(a), picture(noisy))==[]
    titled = lambda said: picture(title(a, said))
    assert '(at most 40)' in refresh.outputs_differ(titled('Fl-all 6.0 %'), titled('Fl-all 8.5 %'))[0]
    assert 'stored 160x96, today 160x80' in refresh.outputs_differ(picture(a), picture(a[:80]))[0]
    assert refresh.outputs_differ(picture(a), text('x'))==['text, stored image/jpeg']
    assert refresh.outputs_differ(picture(a), [])==['0 outputs, stored 1']

def test_cells_left_out():
    from fastcore.basics import AttrDict
    cell = lambda said, source='f()': AttrDict(cell_type='code', source=source, outputs=text(said))
    assert [*refresh.differs([cell('EPE 1.0')], [cell('EPE 2.0')])]==['cell 0: numbers: 1.0 is 2.0 today']
    assert not [*refresh.differs([cell('EPE 1.0')], [cell('zero\nskipped: real pairs not found')])]
    for mark in '#| varies: true', '#| eval: false', '#| data':
        assert not [*refresh.differs([cell('EPE 1.0', f'{mark}\nf()')], [cell('EPE 2.0', f'{mark}\nf()')])]

def test_what_python_reads():
    assert refresh.bare("a = '#1' # one\n\n# two\nb = 2   \n") == "a = '#1'\nb = 2"
    assert refresh.bare('%time f(') == '%time f('

def test_modules_of_a_notebook():
    assert refresh.named('from flowbook.data import Sintel, KITTI2015\n') == {'flowbook.data.sintel', 'flowbook.data.kitti'}
    assert refresh.named('from flowbook.data import (\n    Sintel)') == {'flowbook.data.sintel'}
    assert refresh.named('import flowbook\nflowbook.read_flow(p)') == {'flowbook.io.flowfiles'}
    assert refresh.named('from flowbook.models import raft') == {'flowbook.models.raft'}
    assert len(refresh.named('from flowbook.all import *')) > 150
    deps = refresh.reach({'flowbook.models.raft'})
    assert {'flowbook.core.errors', 'flowbook.ops.lookup'} <= deps and 'flowbook.train.learner' not in deps

CELLS = {'number': 'from flowbook.core.deep import value\nprint("EPE", value)', 'time': 'import time\nprint(f"{time.time()%1e5:.3f} s")',
         'picture': 'import matplotlib.pyplot as plt\nplt.figure(figsize=(2, 1))\nplt.text(0, 0, str(value), size=30);'}

@pytest.fixture
def project(tmp_path):
    "A project of one notebook over a package of two modules"
    for o in ('tools', 'nbs', 'flowbook/core'): (tmp_path/o).mkdir(parents=True)
    for o in ('tools/refresh.py', 'tools/check.py', 'settings.ini'): shutil.copy(root/o, tmp_path/o)
    files = {'__init__.py': '', '__init__.pyi': '', 'core/__init__.py': '', 'core/__init__.pyi': 'from .deep import value as value\n',
             'core/base.py': 'truth = 1.25\n', 'core/deep.py': 'from .base import truth\nvalue = truth\n'}
    for name,code in files.items(): (tmp_path/'flowbook'/name).write_text(code)
    cells = [dict(cell_type='code', id=k, metadata={}, execution_count=None, outputs=[], source=v) for k,v in CELLS.items()]
    (tmp_path/'nbs/a.ipynb').write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    subprocess.run('git init -q . && git add -A', shell=True, cwd=tmp_path, check=True)
    return tmp_path

def test_a_notebook(project):
    def run(*args):
        res = subprocess.run([sys.executable, 'tools/refresh.py', *args], cwd=project, capture_output=True, text=True)
        return res.returncode, res.stdout+res.stderr
    assert run('--list') == (0, 'nbs/a.ipynb: no fingerprint\n')
    assert run('nbs/a.ipynb')[0]==0
    stored = (project/'nbs/a.ipynb').read_bytes()
    nb = json.loads(stored)
    assert [len(c['outputs']) for c in nb['cells']]==[1, 1, 1] and set(nb['metadata']['flowbook']) == {'cells', 'modules', 'data'}
    assert run('--list') == (0, '\n')
    base = project/'flowbook/core/base.py'
    base.write_text('# said otherwise\ntruth = 1.25\n')
    assert run('--list') == (0, '\n'), 'a comment counts'
    base.write_text('truth = 1.26\n')
    assert run('--list') == (0, 'nbs/a.ipynb: changed: modules that it imports\n')
    code, said = run('--check')   # within the tolerance of numbers; the picture shows the digit, the time is another
    assert code and 'cell 0' not in said and 'cell 1' not in said and 'cell 2: picture' in said
    base.write_text('truth = 2.5\n')
    code, said = run('--check', 'nbs/a.ipynb')
    assert code==1 and 'cell 0: numbers: 1.25 is 2.5 today' in said and 'cell 2: picture' in said and 'cell 1' not in said
    assert run('--check', '--minutes', '-1') == (0, 'not run for lack of time: nbs/a.ipynb (changed: modules that it imports)\n'
                                                    '0 notebooks run, 0 differ, 1 left out\n')
    assert (project/'nbs/a.ipynb').read_bytes()==stored, 'a check writes'
    nb['cells'][0]['source'] = 'value = nothing'
    (project/'nbs/a.ipynb').write_text(json.dumps(nb))
    code, said = run('--check')
    assert code and 'NameError' in said and 'its cells' in run('--list')[1]

def test_nbdev_clean_keeps_the_fingerprint():
    from nbdev.clean import _nbdev_clean
    from fastcore.basics import AttrDict
    nb = AttrDict(cells=[], metadata={'flowbook': {'cells': 'x'}, 'other': 1})
    _nbdev_clean(nb)
    assert nb['metadata'] == {'flowbook': {'cells': 'x'}}
