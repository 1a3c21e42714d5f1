"Bad input: one line that names the file or option, what was found and what was expected; exit code 2; nothing left behind"
import re, struct
from pathlib import Path
import flowbook
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from flowbook.apps.views import FlowViews
from flowbook.cli.main import app
from flowbook.core.errors import FlowbookError
from flowbook.data.pair import demo_paths, demo_pair
from flowbook.infer.predictor import estimate_flow
from flowbook.io.flowfiles import read_flow, write_flow
from flowbook.io.images import read_image
from flowbook.io.video import frames2video
from flowbook.models.zoo import create_model
from flowbook.models.weights import save_weights

@pytest.fixture(scope='module')
def bad(tmp_path_factory):
    "A folder of files with one thing wrong with each"
    d, pair = tmp_path_factory.mktemp('bad'), demo_pair()
    a, b, truth = (p.read_bytes() for p in demo_paths())
    files = {'a.png': a, 'b.png': b, 'text.png': b'not a picture\n', 'empty.png': b'',
             'cut.png': a[:len(a)//2], 'cut.jpg': b'\xff\xd8\xff\xe0',
             'empty.pth': b'', 'text.pth': b'no weights\n', 'text.safetensors': b'no weights\n',
             'cut_kitti.png': truth[:-100], 'folder_in_the_way': b'x'}
    for name, data in files.items(): (d/name).write_bytes(data)
    (d/'folder.png').mkdir()
    Image.fromarray(pair.img1[:200]).save(d/'small.png')
    Image.fromarray(pair.img1[:50, :50]).save(d/'tiny.png')
    Image.fromarray(np.full((256, 352), np.nan, np.float32)).save(d/'nan.tif')
    write_flow(pair.flow, d/'good.flo')
    flo = (d/'good.flo').read_bytes()
    (d/'cut.flo').write_bytes(flo[:1000])
    (d/'empty.flo').write_bytes(b'')
    (d/'text.flo').write_bytes(b'some text\n')
    (d/'lying.flo').write_bytes(b'PIEH' + struct.pack('<ii', 2**31 - 1, 2**31 - 1) + flo[12:]) # claims 37 exabytes
    (d/'negative.flo').write_bytes(b'PIEH' + struct.pack('<ii', -352, -256) + flo[12:])
    (d/'longer.flo').write_bytes(flo + b'more')
    write_flow(pair.flow[:100], d/'other_size.flo')
    torch.manual_seed(0)
    tiny = create_model('pwcnet_tiny')
    save_weights(tiny, d/'pwcnet_tiny.safetensors')
    tiny.load_state_dict({k: torch.full_like(v, float('nan')) if v.is_floating_point() else v
                          for k, v in tiny.state_dict().items()})
    torch.save(tiny.state_dict(), d/'nan.pth')
    torch.save(dict(epoch=3), d/'no_tensors.pth')
    for name,sizes in (('folder_frames', [96]*6), ('folder_mixed', [96, 80, 96]), ('folder_one', [96])):
        (d/name).mkdir()
        for i,h in enumerate(sizes): Image.fromarray(pair.img1[:h, i:i+128]).save(d/name/f'{i:03}.png')
    for name in ('folder_empty', 'folder_flow', 'folder_gap'): (d/name).mkdir()
    for i in (0, 1, 4): Image.fromarray(pair.img1[:96, i:i+128]).save(d/'folder_gap'/f'{i:03}.png')
    for i in range(3): write_flow(pair.flow[:96, :128], d/'folder_flow'/f'{i:03}.flo')
    frames2video(d/'folder_frames', d/'clip.mp4')
    mask = np.zeros((96, 128), np.uint8)
    mask[20:40, 20:60] = 255
    Image.fromarray(mask).save(d/'mask.png')
    Image.fromarray(mask[:50]).save(d/'low_mask.png')
    for name,text in dict(points='x,y\n10,10\n', outside='x,y\n1000,10\n', words='x,y\na,b\n', heads='x,y\n').items():
        (d/f'{name}.csv').write_text(text)
    for name,text in {'empty.mp4': '', 'text.mp4': 'words', 'text.txt': 'hello', 'open.py': 'model = dict(\n', 'text.json': '{a',
                      'text.onnx': 'words'}.items(): (d/name).write_text(text)
    return d

# what is wrong, the arguments (names of files above are completed), the part of the message that names the culprit
COMMANDS = [
    ('truncated .flo', 'infer a.png b.png --out OUT --gt cut.flo', 'cut.flo'),
    ('lying .flo', 'infer a.png b.png --out OUT --gt lying.flo', 'lying.flo'),
    ('.flo with a negative size', 'infer a.png b.png --out OUT --gt negative.flo', 'negative.flo'),
    ('.flo with bytes too many', 'infer a.png b.png --out OUT --gt longer.flo', 'longer.flo'),
    ('0-byte .flo', 'infer a.png b.png --out OUT --gt empty.flo', 'empty.flo'),
    ('text named .flo', 'infer a.png b.png --out OUT --gt text.flo', 'text.flo'),
    ('truncated KITTI flow', 'infer a.png b.png --out OUT --gt cut_kitti.png', 'cut_kitti.png'),
    ('a picture as true flow', 'infer a.png b.png --out OUT --gt a.png', 'a.png'),
    ('true flow of another size', 'infer a.png b.png --out OUT --gt other_size.flo', 'other_size.flo'),
    ('text named .png', 'infer a.png text.png --out OUT', 'text.png'),
    ('text named .png, demo', 'demo text.png b.png --out OUT', 'text.png'),
    ('0-byte picture', 'infer empty.png b.png --out OUT', 'empty.png'),
    ('truncated .png', 'infer a.png cut.png --out OUT', 'cut.png'),
    ('truncated .jpg', 'infer a.png cut.jpg --out OUT', 'cut.jpg'),
    ('folder named .png', 'infer a.png folder.png --out OUT', 'folder.png'),
    ('no such picture', 'infer a.png none.png --out OUT', 'none.png'),
    ('pictures of different sizes', 'infer a.png small.png --out OUT', 'small.png'),
    ('pictures of different sizes, demo', 'demo small.png b.png --out OUT', 'b.png'),
    ('pictures below 64 px', 'infer tiny.png tiny.png --out OUT', 'tiny.png'),
    ('NaN in a float picture', 'infer a.png nan.tif --out OUT', 'nan.tif'),
    ('one picture instead of two', 'demo a.png --out OUT', 'IMG1 IMG2'),
    ('checkpoint of another model', 'infer a.png b.png --out OUT --weights pwcnet_tiny.safetensors',
     'pwcnet_tiny.safetensors'),
    ('checkpoint of another model, test', 'test raft --weights pwcnet_tiny.safetensors',
     'pwcnet_tiny.safetensors'),
    ('checkpoint with NaN', 'infer a.png b.png --out OUT --model pwcnet_tiny --weights nan.pth', 'finite'),
    ('checkpoint without tensors', 'infer a.png b.png --out OUT --weights no_tensors.pth', 'no_tensors.pth'),
    ('0-byte checkpoint', 'infer a.png b.png --out OUT --weights empty.pth', 'empty.pth'),
    ('text named .pth', 'infer a.png b.png --out OUT --weights text.pth', 'text.pth'),
    ('text named .safetensors', 'infer a.png b.png --out OUT --weights text.safetensors', 'text.safetensors'),
    ('no such checkpoint', 'test quickstart --weights none.pth', 'none.pth'),
    ('no weights for this model', 'infer a.png b.png --out OUT --model raft', 'raft'),
    ('unknown model', 'infer a.png b.png --out OUT --model rafd', "'rafd'"),
    ('unknown recipe', 'train quickstrat --work-dir OUT', "'quickstrat'"),
    ('unknown recipe, test', 'test quickstrat', "'quickstrat'"),
    ('unknown recipe, config show', 'config show quickstrat', "'quickstrat'"),
    ('unknown recipe option', 'train quickstart data.bz=4 --work-dir OUT', "'data.bz'"),
    ('value of another kind', 'train quickstart data.bs=many --work-dir OUT', 'data.bs'),
    ('option without a value', 'train quickstart data.bs --work-dir OUT', 'data.bs'),
    ('unknown model in a recipe', 'train quickstart model.name=rafd --work-dir OUT', "'rafd'"),
    ('nothing to resume', 'train quickstart --work-dir OUT --resume', 'last.pth'),
    ('unknown command', 'inver a.png b.png', 'inver'),
    ('unknown flag', 'infer a.png b.png --out OUT --devise cpu', '--devise'),
    ('unknown flag of the program', '--bogus', '--bogus'),
    ('missing argument', 'infer a.png --out OUT', 'IMG2'),
    ('missing option', 'infer a.png b.png', '--out'),
    ('no number', 'test flowbook_small --n many', '--n'),
    ('no scenes', 'test flowbook_small --n 0', '--n'),
    ('unknown device', 'infer a.png b.png --out OUT --device tpu', "'tpu'"),
    ('unknown device, demo', 'demo --out OUT --device tpu', "'tpu'"),
    ('unknown device, train', 'train quickstart --work-dir OUT --device tpu', "'tpu'"),
    ('unknown device, test', 'test flowbook_small --device tpu', "'tpu'"),
    ('file where the folder should be', 'infer a.png b.png --out folder_in_the_way', 'folder_in_the_way'),
    ('file where the folder should be, demo', 'demo --out folder_in_the_way', 'folder_in_the_way'),
    ('file where the folder should be, train', 'train quickstart --work-dir folder_in_the_way',
     'folder_in_the_way'),
    ('file above the folder', 'infer a.png b.png --out folder_in_the_way/OUT', 'folder_in_the_way'),
    # --- what newcomers try: folders, films, numbers and targets that make no sense
    ('a folder without images', 'infer folder_empty --out OUT', 'folder_empty'),
    ('a folder of one image', 'infer folder_one --out OUT --model dis', 'folder_one'),
    ('images of changing size', 'infer folder_mixed --out OUT --model dis', '001.png'),
    ('flow into the folder of frames', 'infer folder_frames --out folder_frames --model dis', 'folder_frames'),
    ('three images for two', 'infer a.png b.png a.png --out OUT', '3 frames'),
    ('a video as the flow of two images', 'infer a.png b.png --out clip.avi', 'clip.avi'),
    ('the source as target', 'infer a.png b.png --out a.png --model dis', 'a.png'),
    ('nothing as target', 'infer a.png b.png --out NOTHING', '--out'),
    ('--n without a dataset', 'infer a.png b.png --out OUT --n 3', '--n'),
    ('--data without a root', 'infer --data sintel --out OUT', '--root'),
    ('unknown dataset', 'infer --data sintle --root folder_empty --out OUT', "'sintel'"),
    ('frames that are nowhere', 'infer --data folder --root folder_none --out OUT', 'folder_none'),
    *[(f'--scale {o}', f'infer a.png b.png --out OUT --model dis --scale {o}', 'scale') for o in ('0', '-1', 'nan', '1e9')],
    *[(f'--tile {o}', f'infer a.png b.png --out OUT --model dis --tile {o}', '--tile') for o in ('0x0', '-5x5', 'foo', '3')],
    *[(f'--range {o}', f'infer a.png b.png --out OUT --model dis --range {o}', '--range') for o in ('9,1', 'nan,1')],
    ('a model that is no program', 'infer a.png b.png --out OUT --model text.onnx', 'text.onnx'),
    ('a config file cut short', 'infer a.png b.png --out OUT --model open.py', 'open.py'),
    ('a config file of another kind', 'config show text.json', 'text.json'),
    ('0-byte video', 'video empty.mp4 --out OUT.mp4 --model dis', 'empty.mp4'),
    ('text named .mp4', 'video text.mp4 --out OUT.mp4 --model dis', 'text.mp4'),
    ('a video onto itself', 'video clip.mp4 --out clip.mp4 --model dis', 'clip.mp4'),
    ('a video of one frame', 'video folder_one --out OUT.mp4 --model dis', 'folder_one'),
    *[(f'video --fps {o}', f'video clip.mp4 --out OUT.mp4 --model dis --fps {o}', 'fps') for o in ('0', '-3', 'nan', '1e9')],
    *[(f'--max-flow {o}', f'video clip.mp4 --out OUT.mp4 --model dis --max-flow {o}', 'max') for o in ('-4', 'nan', 'lots')],
    ('unknown codec', 'video clip.mp4 --out OUT.mp4 --model dis --codec zzzz', 'zzzz'),
    ('unknown engine', 'video clip.mp4 --out OUT --engine cloud', "'cloud'"),
    ('unknown manifest', 'video clip.mp4 --out OUT --engine local --manifest x.doc', 'x.doc'),
    ('frames2video --fps 0', 'frames2video folder_frames --out OUT.mp4 --fps 0', 'fps'),
    ('frames2video --scale 1e8', 'frames2video folder_frames --out OUT.mp4 --scale 1e8', 'scale'),
    ('merge --fps 0', 'merge folder_frames folder_flow --out OUT.mp4 --fps 0', 'fps'),
    ('merge without flow', 'merge folder_frames folder_empty --out OUT.mp4', 'folder_empty'),
    ('neither points nor grid', 'track clip.mp4 --out OUT.csv --model dis', '--points --grid'),
    ('tracks onto the video', 'track clip.mp4 --out clip.mp4 --grid 3 --model dis', 'clip.mp4'),
    ('tracks onto the points', 'track clip.mp4 --out points.csv --points points.csv --model dis', 'points.csv'),
    ('points outside', 'track clip.mp4 --out OUT.csv --points outside.csv --model dis', 'x 1000'),
    ('points in words', 'track clip.mp4 --out OUT.csv --points words.csv --model dis', 'words.csv'),
    ('no points', 'track clip.mp4 --out OUT.csv --points heads.csv --model dis', 'heads.csv'),
    ('more points than pixels', 'track clip.mp4 --out OUT.csv --grid 99999 --model dis', '99999'),
    *[(f'--jumps {o}', f'track clip.mp4 --out OUT.csv --grid 3 --model dis --jumps {o}', 'jumps') for o in ('-3', '8', 'far')],
    ('a frame after the end', 'track clip.mp4 --out OUT.csv --grid 3 --model dis --start 50', 'no frame 50'),
    ('tracks below a file', 'track clip.mp4 --out folder_in_the_way/t.csv --grid 3 --model dis', 'folder_in_the_way'),
    ('scores below a file', 'score clip.mp4 --out folder_in_the_way/s.csv --model dis', 'folder_in_the_way'),
    ('scores as a spreadsheet', 'score clip.mp4 --out OUT.xlsx --model dis', '.csv or .json'),
    ('no clips', 'score folder_empty --model dis', 'folder_empty'),
    ('a mask of another size', 'propagate low_mask.png clip.mp4 --out OUT --model dis', '50x128'),
    ('masks among the frames', 'propagate mask.png folder_frames --out folder_frames --model dis', 'folder_frames'),
    ('a mask of no frame', 'propagate mask.png clip.mp4 --out OUT --model dis --frame 99', '99'),
    *[(f'adapt --lr {o}', f'adapt clip.mp4 --work-dir OUT --lr {o}', 'lr') for o in ('0', '-1', 'nan')],
    ('adapt a classical method', 'adapt clip.mp4 --work-dir OUT --model dis', 'dis'),
    *[(f'train {o}', f'train quickstart {o} --work-dir OUT', o.split('=')[0]) for o in
      ('data.bs=0', 'data.n_train=-5', 'schedule.epochs=-1', 'optimizer.lr=-1', 'optimizer.lr=nan')],
    ('report as PDF', 'test flowbook_small --n 1 --report OUT.pdf', '.html'),
    ('report below a file', 'test flowbook_small --n 1 --report folder_in_the_way/r.html', 'folder_in_the_way'),
    ('pictures into a file', 'test flowbook_small --n 1 --show-dir folder_in_the_way', 'folder_in_the_way'),
    ('scores of a comparison as .doc', 'compare dis --n 1 --save OUT.doc', '.doc'),
    ('weights left out', 'compare dis: --n 1', "'dis:'"),
    *[(f'a gap, {o.split()[0]}', f'{o} --model dis', '001.png') for o in
      ('video folder_gap --out OUT.mp4', 'infer folder_gap --out OUT', 'track folder_gap --grid 3 --out OUT.csv',
       'track folder_gap --exr stmap --out OUT', 'propagate mask.png folder_gap --out OUT')],
    ('a gap, adapt', 'adapt folder_gap --work-dir OUT', '001.png'),
    *[(f'{o} for a folder', f'infer folder_frames --out OUT --model dis {o}', o.split()[0]) for o in
      ('--gt good.flo', '--bidirectional', '--exr nuke')],
    ('bench at no size', 'bench dis --size 0x0', '--size'),
]
if not torch.cuda.is_available():
    COMMANDS.append(('no GPU', 'infer a.png b.png --out OUT --device cuda', "'cuda'"))

def is_file(word): return bool(re.fullmatch(r'[a-z_]+\.[a-z]\w+|folder_\w+(/\w.*)?', word))

@pytest.mark.parametrize('args,names', [c[1:] for c in COMMANDS], ids=[c[0] for c in COMMANDS])
def test_program(args, names, bad, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in bad.rglob('*')}
    (tmp_path/'new').mkdir()
    complete = lambda o: '' if o=='NOTHING' else str(tmp_path/'new'/o) if o.startswith('OUT') else str(bad/o) if is_file(o) else o
    res = CliRunner().invoke(app, [complete(o) for o in args.split()], prog_name='flowbook')
    assert isinstance(res.exception, SystemExit), res.exception
    assert res.exit_code==2
    assert res.stdout=='' and res.stderr.count('\n')==1 and res.stderr.endswith('\n'), res.output
    usage = res.stderr.startswith('usage error: ') and res.stderr.endswith(" --help'\n")
    assert usage or ('found' in res.stderr and 'expected' in res.stderr), res.stderr
    assert names.lower() in res.stderr.lower(), res.stderr
    assert not [*(tmp_path/'new').iterdir()], 'something was left behind'
    assert {p: p.stat().st_mtime_ns for p in bad.rglob('*')}==before

def nan_image():
    img = np.zeros((256, 352, 3), np.float32)
    img[3, 4] = np.nan
    return img

# the same from Python, and what has no file
CALLS = [
    ('truncated .flo', lambda d: read_flow(d/'cut.flo'), 'cut.flo'),
    ('lying .flo', lambda d: read_flow(d/'lying.flo'), 'lying.flo'),
    ('text named .png', lambda d: read_image(d/'text.png'), 'text.png'),
    ('0-byte picture', lambda d: read_image(d/'empty.png'), 'empty.png'),
    ('infinity in the first image',
     lambda d: estimate_flow(np.nan_to_num(nan_image(), nan=np.inf), d/'b.png'), 'img1'),
    ('infinity in the second image',
     lambda d: estimate_flow(d/'a.png', np.nan_to_num(nan_image(), nan=np.inf)),
     'img2'),
    ('values beyond [0,1]', lambda d: estimate_flow(d/'a.png', nan_image()*0 + 200), 'img2'),
    ('arrays of different sizes', lambda d: estimate_flow(d/'a.png', np.zeros((99, 99, 3), np.uint8)),
     'img2'),
    ('paths of different sizes', lambda d: estimate_flow(d/'a.png', d/'small.png'), 'small.png'),
    ('two channels', lambda d: estimate_flow(d/'a.png', np.zeros((256, 352, 2), np.uint8)), 'img2'),
    ('no picture at all', lambda d: estimate_flow(d/'a.png', None), 'img2'),
    ('unknown model', lambda d: estimate_flow(d/'a.png', d/'b.png', 'rafd'), 'rafd'),
    ('weights of another model',
     lambda d: estimate_flow(d/'a.png', d/'b.png', weights=d/'pwcnet_tiny.safetensors'),
     'pwcnet_tiny.safetensors'),
    ('unknown device', lambda d: estimate_flow(d/'a.png', d/'b.png', device='tpu'), 'tpu'),
    ('infinite flow to write', lambda d: write_flow(np.full((64, 64, 2), np.inf, np.float32), d/'new.flo'),
     'new.flo'),
    ('a gap, views', lambda d: FlowViews(d/'folder_gap'), '001.png'),
    ('flow into no folder', lambda d: write_flow(np.zeros((2, 2, 2), np.float32), d/'none'/'new.flo'),
     'none'),
]

@pytest.mark.parametrize('call,names', [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_python(call, names, bad):
    before = {p: p.stat().st_mtime_ns for p in bad.rglob('*')}
    with pytest.raises(FlowbookError) as e: call(bad)
    text = str(e.value)
    assert '\n' not in text
    for part in ('found', 'expected', names): assert part in text, text
    assert {p: p.stat().st_mtime_ns for p in bad.rglob('*')}==before

def test_sizes_are_height_x_width():
    "Messages, tables and reports write a size as options take it"
    wrong = r'\{(w|.*width.*|(\w|\.)+\[-1\])\}x\{(h|.*height.*|(\w|\.)+\[-2\])\}|\[1\]\}x\{[^}]*\[0\]|\[3\]\}x\{[^}]*\[2\]|\[2\]\}x\{[^}]*\[1\]'
    found = [f'{p.name}:{i} {l.strip()}' for p in Path(flowbook.__file__).parent.rglob('*.py')
             for i,l in enumerate(p.read_text(encoding='utf-8').splitlines(), 1) if re.search(wrong, l)]
    assert not found, found
