"Bad input: one line that names the file or option, what was found and what was expected; exit code 2; nothing left behind"
import struct
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from flowbook.cli.main import app
from flowbook.core.errors import FlowbookError
from flowbook.data.pair import demo_paths, demo_pair
from flowbook.infer.predictor import estimate_flow
from flowbook.io.flowfiles import read_flow, write_flow
from flowbook.io.images import read_image
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
]
if not torch.cuda.is_available():
    COMMANDS.append(('no GPU', 'infer a.png b.png --out OUT --device cuda', "'cuda'"))

@pytest.mark.parametrize('args,names', [c[1:] for c in COMMANDS], ids=[c[0] for c in COMMANDS])
def test_program(args, names, bad, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in bad.rglob('*')}
    complete = lambda o: str(tmp_path/'new'/'out') if o=='OUT' else str(bad/o) if '.' in o and '=' not in o or o.startswith('folder') else o
    res = CliRunner().invoke(app, [complete(o) for o in args.split()], prog_name='flowbook')
    assert isinstance(res.exception, SystemExit), res.exception
    assert res.exit_code==2
    assert res.stdout=='' and res.stderr.count('\n')==1 and res.stderr.endswith('\n'), res.output
    usage = res.stderr.startswith('usage error: ') and res.stderr.endswith(" --help'\n")
    assert usage or ('found' in res.stderr and 'expected' in res.stderr), res.stderr
    assert names.lower() in res.stderr.lower(), res.stderr
    assert not (tmp_path/'new').exists(), 'something was left behind'
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
