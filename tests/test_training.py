"Training in processes of their own: killed and resumed, shared among several, started from the program"
import json, os, random, signal, subprocess, sys, time
import pytest
from safetensors import safe_open
import torch
from typer.testing import CliRunner
from flowbook.cli.main import app
from flowbook.train.checkpoints import read_checkpoint
from flowbook.train.logging import read_log

ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
HEAD = '''
import random, sys, torch
import numpy as np
from fastai.callback.core import Callback
from flowbook.data.loaders import SceneDataset
from flowbook.data.scenes import SceneConfig
from flowbook.models.zoo import create_model
from flowbook.train.learner import flow_learner
from flowbook.train.run import run_training
torch.set_num_threads(1); torch.manual_seed(0)
easy = SceneConfig(size=(64, 96), objects=(0, 2), displacement=((4., 1.),), photometric=0., textures=16)
'''
RESUMED = HEAD + '''
class Noise(Callback):
    "Random numbers of all three kinds; prints the losses"
    order = 97
    def before_batch(self):
        if self.training: self.learn.xb = tuple(x + .01*(torch.randn_like(x) + random.random() + np.random.rand()) for x in self.xb)
    def after_batch(self):
        if self.training: print(self.train_iter, self.loss.item().hex(), flush=True)
learn = flow_learner(SceneDataset(10, easy).dataloaders(bs=2, n_valid=2, num_workers=1), create_model('pwcnet_tiny'), accumulate=2)
with learn.no_bar(), learn.no_logging():
    run_training(learn, sys.argv[1], dict(iters=24, every=8, lr=dict(policy='one_cycle')), dict(ema=dict(momentum=.05), save_every=3, pictures=1), resume=len(sys.argv) > 2, cbs=[Noise()])
'''

def start(code, *args): return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], env=ENV,
                                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def finish(p, timeout=300):
    out, err = p.communicate(timeout=timeout)
    assert p.returncode==0, err
    return out

@pytest.mark.skipif(os.name!='posix', reason='signals')
def test_kill_and_resume(tmp_path):
    "SIGKILL after a random iteration; the run that goes on has the losses, the table and the weights of one that was never stopped"
    stop, undisturbed = random.randint(4, 16), start(RESUMED, tmp_path/'whole')
    p = start(RESUMED, tmp_path/'cut')
    before = [p.stdout.readline().strip() for _ in range(stop)]
    time.sleep(random.random()*.1)
    p.send_signal(signal.SIGKILL); p.communicate()
    whole = finish(undisturbed).split('\n')
    assert p.returncode==-signal.SIGKILL and before==whole[:stop]
    after = finish(start(RESUMED, tmp_path/'cut', 'resume')).split('\n')
    done = int(after[0].split()[0]) - 1
    assert 3 <= done < 24 and (done%3 == 0 or done%8 == 0), (done, stop)
    assert after==whole[done:], stop
    a, b = (read_checkpoint(tmp_path/d/'last.pth') for d in ('whole', 'cut'))
    assert all(torch.equal(a['model'][k], b['model'][k]) for k in a['model'])
    ema = lambda c: c['hooks']['ModelEMA']['shadow']
    assert all(torch.equal(v, ema(b)[k]) for k, v in ema(a).items())
    assert (tmp_path/'whole'/'log.csv').read_text()==(tmp_path/'cut'/'log.csv').read_text()
    (told, x), (told_too, y) = (stored(tmp_path/d/'weights.safetensors') for d in ('whole', 'cut'))
    assert told==told_too and x.keys()==y.keys() and all(torch.equal(x[k], y[k]) for k in x)

def stored(path):
    "Notes and tensors of a file; safetensors writes notes in any order"
    with safe_open(path, 'pt') as f: return f.metadata(), {k: f.get_tensor(k) for k in f.keys()}

SHARED = HEAD + '''
from flowbook.core.processes import join_processes, leave_processes, process_number
join_processes('cpu')
dls = SceneDataset(12, easy).dataloaders(bs=6, n_valid=5)
dls.loaders.append(SceneDataset(2, easy, seed=5, fresh=False).dataloaders(bs=2, n_valid=2).valid)
dls.loaders[1].label, dls.loaders[2].label = 'five', 'two'
learn = flow_learner(dls, create_model('pwcnet_tiny'), name='SGD', lr=1e-3, wd=0.)
with learn.no_bar(), learn.no_logging(): run_training(learn, sys.argv[1], dict(iters=6, every=3), dict(pictures=2, save_every=2))
if process_number()[0] == 0: torch.save(learn.model.state_dict(), sys.argv[1] + '/weights.pt')
leave_processes()
'''

def test_processes(tmp_path):
    "One process and three: the same weights to 1e-5, the same figures; the first alone writes"
    from flowbook.core.processes import launch
    (tmp_path/'shared_script.py').write_text(SHARED)
    weights, tables = [], []
    for n in (1, 3):
        assert launch(n, ['shared_script', tmp_path/f'run{n}'], cwd=tmp_path)==0
        weights.append(torch.load(tmp_path/f'run{n}'/'weights.pt',
                                  weights_only=True)); tables.append(read_log(tmp_path/f'run{n}'))
        assert [f.name for f in (tmp_path/f'run{n}'/'pictures').iterdir()] and len(tables[-1])==2
    for w in weights[1:]:
        for k, v in w.items(): torch.testing.assert_close(v, weights[0][k], atol=1e-5, rtol=0)
    for t in tables[1:]:
        for row, one in zip(t, tables[0]): assert row==pytest.approx(one, rel=2e-5), (row, one)

TINY = ['data.n_train=8', 'data.n_valid=3', 'data.bs=4', 'data.scenes.size=(64,96)',
        'data.scenes.textures=24']

def flowbook(*args, cwd): return subprocess.run([sys.executable, '-m', 'flowbook.cli', *map(str, args)],
                                                cwd=cwd, env={**ENV, 'COLUMNS': '100'}, capture_output=True,
                                                text=True, timeout=300)

def inside(*args):
    "The program in this process"
    res = CliRunner().invoke(app, list(map(str, args)))
    if res.exception and not isinstance(res.exception, SystemExit): raise res.exception
    return res

def test_program_with_processes(tmp_path):
    "flowbook train --processes 2, under torchrun's variables; and what --gpus says without a GPU"
    args = ['train', 'quickstart', *TINY, 'schedule.epochs=1', 'runtime.precision=fp32', '--device', 'cpu',
            '--json']
    one, two = inside(*args, '--work-dir', tmp_path/'run1'), flowbook(*args, '--work-dir', 'run2',
        '--processes', 2, cwd=tmp_path)
    assert (one.exit_code, two.returncode)==(0, 0), one.stderr + two.stderr
    assert json.loads(one.stdout)['epe']==pytest.approx(json.loads(two.stdout)['epe'], rel=1e-4)
    odd = inside(*args, '--work-dir', tmp_path/'run3', '--processes', 3)
    assert odd.exit_code==2 and odd.stderr.count('\n')==1 and 'multiple of the 3 processes' in odd.stderr, odd.stderr
    if not torch.cuda.is_available():
        res = CliRunner().invoke(app, ['train', 'quickstart', '--gpus', '2'])
        assert res.exit_code==2 and '--gpus' in res.stderr and '--processes' in res.stderr

def test_evaluation_with_processes(tmp_path):
    "flowbook test prints the same figures with one process and with three"
    found = []
    args = 'test', 'flowbook_fast', '--n', 4, '--device', 'cpu', '--json'
    for res in (inside(*args), flowbook(*args, '--processes', 3, cwd=tmp_path)):
        assert getattr(res, 'returncode', 0)==getattr(res, 'exit_code', 0)==0, res.stderr
        found.append({k: {m: v for m, v in o.items() if m!='ms'}
                      for k, o in json.loads(res.stdout)['methods'].items()})
    for other in found[1:]:
        for k, scores in found[0].items(): assert other[k]==pytest.approx(scores, rel=1e-6), k

@pytest.mark.skipif(os.name!='posix', reason='signals')
def test_two_runs_in_one_folder(tmp_path):
    "The second is refused in one line while the first lives; a run that was killed locks nobody out"
    args = ['-m', 'flowbook.cli', 'train', 'quickstart', *TINY, 'schedule.epochs=400', '--device', 'cpu',
            '--work-dir', 'run']
    p = subprocess.Popen([sys.executable, *args], env=ENV, cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    try:
        wait_for(lambda: (tmp_path/'run/recipe.json').exists())
        second = subprocess.run([sys.executable, *args], env=ENV, cwd=tmp_path, text=True,
                                capture_output=True)
        assert second.returncode==2 and second.stderr.count('\n')==1, second.stderr
        assert 'a run in progress' in second.stderr or 'last.pth of an earlier run' in second.stderr, second.stderr
        resumed = subprocess.run([sys.executable, *args, '--resume'], env=ENV, cwd=tmp_path, text=True,
                                 capture_output=True)
        assert resumed.returncode==2 and p.poll() is None, resumed.stderr
        wait_for(lambda: (tmp_path/'run/last.pth').exists())
        resumed = subprocess.run([sys.executable, *args, '--resume'], env=ENV, cwd=tmp_path, text=True,
                                 capture_output=True)
        assert resumed.returncode==2 and f'process {p.pid} on' in resumed.stderr, resumed.stderr
    finally:
        p.kill(); p.communicate()
    done = subprocess.run([sys.executable, *args, 'schedule.epochs=1', '--resume'], env=ENV, cwd=tmp_path,
                          text=True, capture_output=True)
    assert 'a run in progress' not in done.stderr, done.stderr

def wait_for(what, seconds=600):
    for _ in range(10*seconds):
        if what(): return
        time.sleep(.1)
    pytest.fail('it did not happen')

def ranks_of(pid):
    "Process numbers of the children of `pid`"
    return [int(o) for o in subprocess.run(['ps', '-o', 'pid=', '--ppid', str(pid)], capture_output=True,
                                           text=True).stdout.split()]

def alive(pid):
    try: return open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0] != 'Z'
    except OSError: return False

@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='looks at /proc')
@pytest.mark.parametrize('whom,number',
                         [('parent', signal.SIGKILL), ('parent', signal.SIGTERM), ('rank', signal.SIGKILL)])
def test_no_orphans(tmp_path, whom, number):
    "Ranks end with their parent; a rank that is killed is named"
    args = ['-m', 'flowbook.cli', 'train', 'quickstart', *TINY, 'schedule.epochs=400', '--device', 'cpu',
            '--work-dir', 'run', '--processes', '2']
    p = subprocess.Popen([sys.executable, *args], env=ENV, cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    try:
        wait_for(lambda: (tmp_path/'run/recipe.json').exists())
        ranks = ranks_of(p.pid)
        assert len(ranks) == 2
        os.kill(p.pid if whom == 'parent' else ranks[1], number)
        _, err = p.communicate(timeout=120)
        wait_for(lambda: not any(map(alive, ranks)), 60)
        if whom == 'rank': assert p.returncode == 137 and 'process 1 was killed, signal 9' in err, err
    finally: p.kill()
