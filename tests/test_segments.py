"One video shared by several processes: the same files as from one process; a worker that dies; Ctrl-C; nonsense"
import os, signal, subprocess, sys, time
import numpy as np, pytest
from flowbook.core.errors import FlowbookError
from flowbook.infer.predictor import FlowPredictor
from flowbook.infer.stream import stream_flow, stream_segments
from flowbook.io.images import write_image
from flowbook.models.zoo import create_model
import torch

def film(n, size=(64, 96)):
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(0, 255, (size[0]//8, size[1]//8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    return [np.roll(ground, (i//2, i), (0, 1)) for i in range(n)]

def folder(path, n):
    path.mkdir()
    for i, o in enumerate(film(n)): write_image(o, path/f'{i:03d}.png')
    return path

def flowbook(*args, **kw):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'COLUMNS': '100'}
    return subprocess.Popen([sys.executable, '-m', 'flowbook.cli', *map(str, args)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)

def files(path): return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob('*')) if p.is_file()}

def test_the_same_files(tmp_path):
    "Pictures with a colour scale that follows the video, flow and motion vectors, both directions"
    src, outs = folder(tmp_path/'in', 36), []
    for workers in 1, 2:
        out = tmp_path/f'out{workers}'
        p = flowbook('video', src, '--out', out, '--model', 'dis', '--device', 'cpu', '--layout', 'occlusion',
                     '--save-flo', '--workers', workers)
        _, err = p.communicate(timeout=300)
        assert p.returncode == 0, err
        outs.append(files(out))
    assert len(outs[0]) > 70 and outs[0] == outs[1]

@pytest.mark.parametrize('name, options', [('raft_small', {}), ('memfof', dict(blocks=(1,1,1), widths=(16,16,32), dim=32))])
def test_networks(name, options):
    "Features of a frame that two segments share are computed twice, and are the same"
    torch.manual_seed(0)
    predictor = FlowPredictor(create_model(name, **options), device='cpu', iters=2)
    frames, threads = film(9, (128, 128)), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = [o.flow for o in stream_flow(iter(frames), predictor)]
        two = [o.flow for o in stream_segments(iter(frames), predictor, workers=2, length=3)]
    finally: torch.set_num_threads(threads)
    assert len(one) == len(two) == 8
    for a, b in zip(one, two, strict=True): assert np.abs(a - b).max() < 1e-4*max(1, np.abs(a).max())

def dies(a, b): os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.skipif(os.name != 'posix', reason='no SIGKILL')
def test_a_worker_that_dies():
    with pytest.raises(FlowbookError, match='one that was killed'):
        list(stream_segments(iter(film(9)), dies, length=2))

@pytest.mark.skipif(os.name != 'posix', reason='no SIGINT for a process alone')
def test_ctrl_c_and_resume(tmp_path):
    "What is done stays, the processes are gone, and --resume ends as an unbroken run does"
    src = folder(tmp_path/'in', 60)
    args = 'video', src, '--out', tmp_path/'out', '--model', 'flowbook_fast', '--device', 'cpu', '--save-flo'
    p = flowbook(*args, '--workers', 2, start_new_session=True)
    while not (tmp_path/'out'/'000004.png').exists():
        assert p.poll() is None, p.communicate()
        time.sleep(.02)
    os.killpg(p.pid, signal.SIGINT)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 130 and 'Traceback' not in err, err
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(p.pid, 0)
            time.sleep(.1)
    for extra in ('--out', tmp_path/'out', '--resume', '--workers', 2), ('--out', tmp_path/'whole'):
        q = flowbook(*args[:2], *args[4:], *extra)
        _, err = q.communicate(timeout=300)
        assert q.returncode == 0, err
    pictures = lambda o: {k: v for k, v in files(o).items() if k.endswith(('.png', '.flo'))}
    assert pictures(tmp_path/'out') == pictures(tmp_path/'whole')

def test_nonsense(tmp_path):
    src = folder(tmp_path/'in', 4)
    for extra, said in (('--workers', 2, '--warm-start', '--model', 'flowbook_small'), 'workers: found 2, expected 1 with a warm start'), \
                       (('--workers', 0), '--workers'):
        p = flowbook('video', src, '--out', tmp_path/'out', '--device', 'cpu', *extra)
        _, err = p.communicate(timeout=120)
        assert p.returncode == 2 and said in err and 'Traceback' not in err, err
    p = flowbook('video', src, '--out', tmp_path/'many', '--model', 'dis', '--device', 'cpu', '--workers', 7)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 0 and 'note: workers: found 7, expected at most 1' in err, err
