"Files of `flowbook export`, named by hand as `--model FILE`, in video, compare and serve"
import json
from importlib.util import find_spec
import numpy as np, pytest
from test_serve import ask, picture, start, stop
from typer.testing import CliRunner

SIZE = 64,96

@pytest.fixture(scope='module', params=['.onnx', '.pt2'])
def file(request, tmp_path_factory):
    "The bundled network in a file of one size"
    if request.param=='.onnx' and not (find_spec('onnx') and find_spec('onnxruntime')):
        pytest.skip('needs onnx and onnxruntime')
    from flowbook.infer.predictor import FlowPredictor
    from flowbook.models.export import export_model
    path = tmp_path_factory.mktemp('exported')/f'small{request.param}'
    format = {'.onnx': 'onnx', '.pt2': 'torch_export'}[request.param]
    return export_model(FlowPredictor(device='cpu').model, path, SIZE, format=format).path

def run(*args):
    from flowbook.cli.main import app
    res = CliRunner().invoke(app, [*map(str, args)], env=dict(COLUMNS='100'))
    if res.exception and not isinstance(res.exception, SystemExit): raise res.exception
    assert res.exit_code==0, res.stderr
    return json.loads(res.stdout)

def clip(folder, size):
    "Three frames that move by 4 px to the left"
    folder.mkdir()
    for i in range(3): (folder/f'{i}.png').write_bytes(picture(*size, shift=4*i))
    return folder

@pytest.mark.parametrize('size', [SIZE, (88,120)], ids=['its_size', 'larger'])
def test_video(file, size, tmp_path):
    from flowbook.io.flowfiles import read_flow
    found = run('video', clip(tmp_path/'in', size), '--out', tmp_path/'out', '--model', file, '--save-flo',
                '--device', 'cpu', '--json')
    assert (found['model'], found['pairs'], found['precision'])==(file.name, 2, 'fp32')
    flows = [read_flow(o) for o in sorted((tmp_path/'out').glob('*.flo'))]
    assert [o.shape for o in flows]==[(*size,2)]*2   # larger images are cut into tiles
    for o in flows: assert np.abs(np.median(o, (0,1)) - (-4,0)).max() < .5

def test_compare(file, tmp_path):
    from flowbook.data.make import make_dataset
    make_dataset('middlebury', tmp_path/'mb', n=1, size=SIZE)
    rows = run('compare', file, 'flowbook_small', 'zero', '--data', 'middlebury', '--root', tmp_path/'mb',
               '--no-memory', '--device', 'cpu', '--precision', 'fp32', '--json')['sets']['middlebury']
    rows = {r['model']: r for r in rows}
    assert abs(rows[str(file)]['epe'] - rows['flowbook_small']['epe']) < 1e-3 < rows['zero']['epe']
    assert rows[str(file)]['parameters'] is None     # a file does not say

def test_serve(file):
    from flowbook.io.flowfiles import flow_from_bytes
    p,port = start('--model', str(file))
    try:
        assert json.loads(ask(port, 'GET', '/health')[1])['model']==file.name
        for size in SIZE, (88,120):
            status,body = ask(port, img1=picture(*size), img2=picture(*size, shift=4))
            flow = flow_from_bytes(body)
            assert (status, flow.shape)==(200, (*size,2))
            assert np.abs(np.median(flow, (0,1)) - (-4,0)).max() < .5
    finally: code,err = stop(p)
    assert code==0 and 'Traceback' not in err
