"Films in processes of their own: flat memory, Ctrl-C, SIGTERM, kill -9, what is imported, what a log file holds"
import json, os, signal, subprocess, sys, time
import cv2, numpy as np, pytest
from flowbook.io.images import read_image, write_image
from flowbook.io.video import VideoWriter, read_frames

PROGRAM = """
import typer
from flowbook.cli.terminal import Program
from flowbook.cli.video import frames_to_video, merge, video
app = typer.Typer(cls=Program, add_completion=False)
for f in (video, merge): app.command()(f)
app.command('frames2video')(frames_to_video)
app(prog_name='flowbook')
"""

def start(*args, code=PROGRAM):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'COLUMNS': '100', 'PYTHONWARNINGS': 'ignore'}
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def finish(p, timeout=300):
    out,err = p.communicate(timeout=timeout)
    return p.returncode,out,err

def film(n, size=(64,96), seed=0):
    "A smooth texture that glides, and a disc that crosses it"
    h,w = size
    ground = cv2.resize(np.random.default_rng(seed).integers(0, 255, (h//8,w//8,3), dtype=np.uint8), (w,h),
                        interpolation=cv2.INTER_CUBIC)
    for i in range(n):
        img = np.roll(ground, (i//2, i), (0,1))
        cv2.circle(img, ((3*i)%w,h//2), h//6, (255,200,0), -1)
        yield img

def write(path, frames, **kw):
    with VideoWriter(path, **kw) as w:
        for o in frames: w.write(o)
    return path

def wait_for(path, p, seconds=120):
    began = time.time()
    while not path.exists():
        assert p.poll() is None, p.communicate()
        assert time.time() - began < seconds, f'no {path}'
        time.sleep(.02)

MEMORY = """
import json, os, sys
from flowbook.infer.video import process_video
from flowbook.infer.predictor import FlowPredictor
source, out, layout = sys.argv[1:]
rss, page = {}, os.sysconf('SC_PAGE_SIZE')
def look(done, total):
    if done in (30, 100, 200, 299): rss[done] = int(open('/proc/self/statm').read().split()[1])*page/2**20
process_video(source, out, FlowPredictor('dis', device='cpu'), layout, progress=look)
print(json.dumps(rss))
"""

@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='no /proc: memory cannot be read')
@pytest.mark.parametrize('layout, out', [('side','out.mp4'), ('overlay','out')])
def test_memory_is_flat(tmp_path, layout, out):
    "From frame 100 to 299: all of them decoded and painted would be 199*128*192*3*3 bytes, 42 MiB and more"
    clip = write(tmp_path/'clip.avi', film(300, (128,192)), codec='MJPG')
    code,text,err = finish(start(clip, tmp_path/out, layout, code=MEMORY))
    assert code==0, err
    rss = {int(k): v for k,v in json.loads(text).items()}
    assert rss[299] - rss[100] < 16, rss   # threads and allocators take 4 to 10 MiB here, whatever the frames' size
    n = read_frames(tmp_path/out).count
    assert n==299

@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed(tmp_path, sign):
    "A signal in the middle: what is done plays; the same command with --resume does the rest"
    clip = write(tmp_path/'clip.avi', film(60), codec='FFV1')
    args = 'video', clip, '--out', tmp_path/'out.mp4', '--save-flo', '--device', 'cpu', '--iters', 2, '--fps', 12
    p = start(*args)
    wait_for(tmp_path/'out_flo'/'000005.flo', p)
    p.send_signal(sign)
    code,out,err = finish(p)
    assert (code, out)==(130, ''), (out, err)
    done = len(list(read_frames(tmp_path/'out.mp4')))
    assert 5 < done < 59 and err.splitlines()==[f'stopped after {done} of 59 pairs: {tmp_path}/out.mp4 holds them', 'next: the same command with --resume does the rest']
    code,out,err = finish(start(*args, '--resume', '--json'))
    assert (code, err)==(0, ''), err
    found = json.loads(out)
    assert (found['pairs'], found['new'])==(59, 59 - done)
    back = read_frames(tmp_path/'out.mp4')
    assert (back.count, back.fps, len(list(back)))==(59, 12., 59)
    assert sorted(o.name for o in tmp_path.iterdir())==['clip.avi', 'out.mp4', 'out_flo'] and len(list((tmp_path/'out_flo').iterdir()))==59

def test_killed_and_resumed(tmp_path):
    "kill -9 gives no time to finish anything: every picture is whole or not there, and the run goes on behind the last"
    for i,o in enumerate(film(40)):
        write_image(o, (tmp_path/'in').mkdir(exist_ok=True) or tmp_path/'in'/f'{i}.png')
    args = 'video', tmp_path/'in', '--out', tmp_path/'out', '--device', 'cpu', '--iters', 2
    p = start(*args)
    wait_for(tmp_path/'out'/'000004.png', p)
    p.kill()
    assert finish(p)[0]==(-signal.SIGKILL if os.name=='posix' else 1)
    there = sorted((tmp_path/'out').glob('[0-9]*.png'))
    assert 5 <= len(there) < 39 and all(read_image(o).shape==(64,196,3) for o in there)
    code,out,err = finish(start(*args))
    assert code==2 and 'frames of another run' in err      # nothing is written over without a word
    code,out,err = finish(start(*args, '--resume', '--json'))
    assert code==0 and json.loads(out)['pairs']==39, err
    assert [o.name for o in sorted((tmp_path/'out').glob('[0-9]*.png'))]==[f'{i:06d}.png' for i in range(39)]

def test_parts_survive_a_kill(tmp_path):
    "A video in parts of ten frames: kill -9 costs one part"
    clip = write(tmp_path/'clip.avi', film(60), codec='FFV1')
    code = "import sys\nfrom flowbook.infer.video import process_video\nprocess_video(sys.argv[1], sys.argv[2], 'dis', part=10, resume=len(sys.argv) > 3, progress=lambda *o: __import__('time').sleep(.03))"
    p = start(clip, tmp_path/'out.mp4', code=code)
    wait_for(tmp_path/'out.mp4.parts'/'000010.mp4', p)
    p.kill()
    finish(p)
    assert not (tmp_path/'out.mp4').exists()
    done = json.loads((tmp_path/'out.mp4.parts'/'state.json').read_text())['done']
    assert done in (10, 20, 30)
    assert finish(start(clip, tmp_path/'out.mp4', 'resume', code=code))[0]==0
    assert len(list(read_frames(tmp_path/'out.mp4')))==59 and sorted(o.name for o in tmp_path.iterdir())==['clip.avi', 'out.mp4']

def test_a_log_file_has_plain_lines(tmp_path):
    clip = write(tmp_path/'clip.avi', film(8), codec='MJPG')
    code,out,err = finish(start('video', clip, '--out', tmp_path/'o.mp4', '--model', 'dis'))
    assert (code, err)==(0, '') and '\x1b' not in out
    assert f'wrote {tmp_path}/o.mp4, 7 frames' in out.splitlines()

def test_help_is_light():
    "Neither the help nor a mistake in the options imports PyTorch or OpenCV"
    code = "import sys, flowbook.cli.video\nassert not {'torch','cv2','fastai'} & set(sys.modules), set(sys.modules) & {'torch','cv2','fastai'}"
    assert finish(start(code=code))==(0, '', '')

def test_hostile_files(tmp_path):
    "Damaged videos end in one line or in a shorter film, never in a traceback"
    whole = write(tmp_path/'whole.mp4', film(12)).read_bytes()
    rng = np.random.default_rng(0)
    for k in range(12):
        data = bytearray(whole)
        if k%3==0: data = data[:rng.integers(1, len(data))]
        else:
            for i in rng.integers(0, len(data), 40): data[i] = rng.integers(256)
        (tmp_path/'bad.mp4').write_bytes(bytes(data))
        try: frames = [o.shape for o in read_frames(tmp_path/'bad.mp4')]
        except ValueError as e: assert 'bad.mp4' in str(e) and '\n' not in str(e)
        else: assert len(frames) <= 24 and len(set(frames)) <= 1
