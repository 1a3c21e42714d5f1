"From `flowbook data make` to a trained model, each step a process of its own; and the scripts in data_prep/"
import ast, json, os, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent

def flowbook(*args, cwd, script=None):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'COLUMNS': '120', 'PYTHONWARNINGS': 'ignore'}
    command = [sys.executable, *(['-m', 'flowbook.cli.main'] if script is None else [str(script)]),
               *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, timeout=500)

@pytest.fixture(scope='module')
def sintel(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('data')
    res = flowbook('data', 'make', 'sintel', tmp/'sintel', '--n', 8, cwd=tmp)
    assert res.returncode==0, res.stderr
    return tmp/'sintel'

def test_check(sintel):
    res = flowbook('data', 'check', 'sintel', sintel, '--json', cwd=sintel.parent)
    assert res.returncode==0, res.stderr
    found = json.loads(res.stdout)
    assert not found['problems'] and found['files'] > 8 and found['rows'][0]['sizes']=='96x128'

def test_train_and_test_on_a_data_set(sintel, tmp_path):
    "The names come first or last: `data=` chooses the keys that the others set"
    on = ['data.root='+str(sintel), 'data=sintel']
    res = flowbook('train', 'quickstart', *on, 'schedule.epochs=2', 'data.bs=4', '--work-dir', 'run',
                   '--device', 'cpu', '--json', cwd=tmp_path)
    assert res.returncode==0, res.stderr
    trained = json.loads(res.stdout)
    assert json.loads((tmp_path/'run/recipe.json').read_text())['data']['name']=='sintel'
    res = flowbook('test', 'quickstart', *on, '--weights', 'run/weights.safetensors', '--device', 'cpu',
                   '--json', cwd=tmp_path)
    assert res.returncode==0, res.stderr
    assert json.loads(res.stdout)['methods']['pwcnet_tiny']['epe']==pytest.approx(trained['epe'], rel=.02) # training validates in bfloat16

def test_resumed_run_with_workers_is_the_same_run(sintel, tmp_path):
    "Two epochs at once in this process, and one plus one with a worker: the same table"
    common = ['train', 'quickstart', 'data=sintel', f'data.root={sintel}', 'data.bs=4',
              'runtime.precision=fp32', '--device', 'cpu', '--work-dir']
    assert flowbook(*common, 'a', 'schedule.epochs=2', cwd=tmp_path).returncode==0
    assert flowbook(*common, 'b', 'schedule.epochs=2', 'data.workers=1', cwd=tmp_path).returncode==0
    assert (tmp_path/'a/log.csv').read_text()==(tmp_path/'b/log.csv').read_text()

@pytest.mark.parametrize('args,says', [
    (['data=sintel'], 'data.root: found nothing'),
    (['data=sintel', 'data.root=nowhere'], 'expected tree'),
    (['data=sintle'], "dataset: found 'sintle', expected 'sintel'"),
    (['data=sintel', 'data.root={sintel}', 'data.options.pass_stile=final'],
     "option of sintel: found 'pass_stile', expected 'pass_style'"),
    (['data=sintel', 'data.root={sintel}', 'data.augment=raft_sintl'], "'raft_sintel'"),
    (['data=sintel', 'data.root={sintel}', 'data.options.split=test'], 'flow')])
def test_mistakes_about_data(sintel, tmp_path, args, says):
    res = flowbook('train', 'quickstart', *(a.format(sintel=sintel) for a in args), '--work-dir', 'run',
                   '--device', 'cpu', cwd=tmp_path)
    assert (res.returncode, res.stdout)==(2, '') and says in res.stderr, res.stderr
    assert 'Traceback' not in res.stderr and not (tmp_path/'run/last.pth').exists()

def scripts():
    from flowbook.data.base import list_datasets
    return [n for n in list_datasets() if n!='folder']

def test_every_data_set_has_a_script(): assert sorted(p.stem for p in (root/'data_prep').glob('*.py'))==scripts()

@pytest.mark.parametrize('name', scripts())
def test_script_says_what_the_class_says(name):
    from flowbook.data.base import dataset_class
    cls, text = dataset_class(name), ast.get_docstring(ast.parse((root/f'data_prep/{name}.py').read_text()))
    for line in [cls.page, cls.licence, cls.title, *(l.strip() for l in cls.tree.strip().splitlines())]:
        assert line in text, line
    assert all(f'{v} {k}' in text for k, v in cls.counts.items())

def test_script_prepares(tmp_path):
    assert flowbook('data', 'make', 'chairssdhom', 'c', '--n', 2, cwd=tmp_path).returncode==0
    res = flowbook('c', '--convert', 'flo', script=root/'data_prep/chairssdhom.py', cwd=tmp_path)
    assert res.returncode==0 and '0 problems' in res.stdout, res.stderr
    assert (tmp_path/'c/flowbook-index.json').exists() and list((tmp_path/'c').rglob('*.flo'))
    (next((tmp_path/'c').rglob('*.png'))).write_bytes(b'cut')
    assert flowbook('c', script=root/'data_prep/chairssdhom.py', cwd=tmp_path).returncode==2

def test_every_made_tree_passes_its_check(tmp_path):
    "All data sets in one process: made, opened with every choice, decoded whole"
    code = '''
import sys
from flowbook.data.base import list_datasets
from flowbook.data.check import check_dataset
from flowbook.data.make import make_dataset
for name in list_datasets():
    ds = make_dataset(name, name, n=2, size=(64, 96))
    report = check_dataset(name, name, full=True)
    assert not report.problems and not report.absent, (name, report.problems, report.absent)
    assert len(ds) >= 2 and ds[0].size == (64, 96), (name, ds)
    assert name == 'folder' or ds[0].flow is not None, name
    print(name, len(ds), report.files)
'''
    res = subprocess.run([sys.executable, '-c', code], cwd=tmp_path,
                         env={**os.environ, 'OMP_NUM_THREADS': '1'}, text=True, capture_output=True,
                         timeout=500)
    assert res.returncode==0, res.stderr[-2000:]
    assert len(res.stdout.splitlines())==len(scripts()) + 1

def test_workers_start_after_opencv_has_threads(tmp_path):
    "A forked worker that inherits OpenCV's thread pool waits for dead threads for ever"
    code = '''
import cv2, numpy as np
img = np.zeros((1000, 1000, 3), np.uint8)
for _ in range(20): cv2.GaussianBlur(cv2.warpAffine(img, np.eye(2, 3), (1000, 1000)), (0, 0), 3)
from flowbook.augment.pipelines import create_augmentation
from flowbook.data.loaders import SceneConfig, SceneDataset, dataloaders
samples = [SceneDataset(4, SceneConfig(size=(64, 64)))[i] for i in range(4)]
dls = dataloaders(samples, samples, bs=2, tfm=create_augmentation('raft_chairs', crop=(48, 48)), num_workers=2)
threads = cv2.getNumThreads()
seen = sum(len(b[0]) for _ in range(2) for b in dls.train)
print(seen, cv2.getNumThreads() == threads)
'''
    res = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, text=True, capture_output=True,
                         timeout=120)
    assert (res.returncode, res.stdout)==(0, '8 True\n'), res.stderr[-1000:]

@pytest.mark.parametrize('name', ['sintel', 'spring', 'flyingthings3d', 'flyingthings3dsubset', 'monkaa',
                                  'driving', 'tartanair', 'hd1k', 'vkitti2', 'kitti2015', 'folder',
                                  'flyingchairs'])
def test_triples(name, tmp_path):
    "As many samples as before, the frame before where there is one, and flow back to it that leads there"
    import cv2, numpy as np
    from flowbook.data.base import create_dataset
    from flowbook.data.make import make_dataset
    pairs = make_dataset(name, tmp_path/name, n=5)
    triples = create_dataset(name, tmp_path/name, frames=3)
    assert len(triples) == len(pairs) and triples.n_inp == 3
    ends = {p.img2 for p in pairs.records}
    for i, p in enumerate(pairs.records):
        s = triples[i]
        if p.img1 in ends and not (p.img2, p.img1) in {(q.img1, q.img2) for q in pairs.records}:
            assert s.img0 is not s.img1
        if s.flow_prev is None: continue
        at = s.flow_prev + np.stack(np.meshgrid(*map(np.arange, s.size[::-1])), -1)
        seen = cv2.remap(np.float32(s.img0), *np.moveaxis(np.float32(at), -1, 0), cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_CONSTANT, borderValue=(-999,)*3)
        known = (seen > -1).all(-1) if s.valid_prev is None else s.valid_prev & (seen > -1).all(-1)
        assert np.median(np.abs(seen - s.img1)[known]) < 3

def test_train_on_triples():
    "A network of three frames learns from scenes with the frame before"
    import torch
    from flowbook.data.loaders import SceneDataset
    from flowbook.data.scenes import SceneConfig
    from flowbook.models.zoo import create_model
    from flowbook.train.learner import flow_learner
    torch.manual_seed(0)
    dls = SceneDataset(4, SceneConfig(size=(64, 64)), frames=3).dataloaders(n_valid=2, bs=2)
    model = create_model('memfof', blocks=(1, 1, 1), widths=(8, 8, 16), dim=16, iters=2)
    learn = flow_learner(dls, model)
    before = [p.clone() for p in model.parameters()]
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert all(p.isfinite().all() for p in model.parameters())
    assert sum((a != b).any().item() for a, b in zip(before, model.parameters())) > len(before)/2
