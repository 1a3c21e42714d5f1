"A network of three frames wherever a clip, or a pair, goes in: random weights, true shapes, and the frame before it"
import io, zipfile
import numpy as np, pytest, torch
from flowbook.apps.serve import make_app
from flowbook.apps.views import FlowViews
from flowbook.apps.widgets import FlowViewer
from flowbook.infer.predictor import FlowPredictor
from flowbook.infer.score import clip_scores
from flowbook.infer.tracks import track_points
from flowbook.infer.video import process_video
from flowbook.io.images import read_image, write_image
from flowbook.io.video import VideoWriter
from flowbook.models.zoo import create_model
from flowbook.viz.layouts import LAYOUTS

@pytest.fixture(scope='module')
def predictor():
    torch.manual_seed(0)
    return FlowPredictor(create_model('memfof'), device='cpu', iters=1)

@pytest.fixture(scope='module')
def film():
    img = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.roll(img, (i, 3*i), (0, 1)) for i in range(4)]

def expected(predictor, film):
    "The flow of each pair, after the frame before it; the first frame stands in at the start"
    return [np.asarray(predictor(film[max(i - 1, 0)], film[i], film[i + 1])) for i in range(len(film) - 1)]

def test_views(predictor, film):
    views = FlowViews(film, predictor)
    for i, flow in enumerate(expected(predictor, film)):
        np.testing.assert_array_equal(views.flow(i, predictor.name), flow)
    assert views.occ(1, predictor.name).shape == film[0].shape[:2]
    alone = FlowViews((film[1], film[2]), predictor)   # a pair: nothing is known before it
    np.testing.assert_array_equal(alone.flow(0, predictor.name), predictor(film[1], film[1], film[2]))
    assert FlowViewer(views).views is views

@pytest.mark.parametrize('layout', [o for o in LAYOUTS if o != 'error'])
def test_layouts(predictor, film, layout, tmp_path):
    report = process_video(film, tmp_path/'out', predictor, layout=layout)
    assert report.pairs == 3 and len(list((tmp_path/'out').glob('*.png'))) == 3
    assert read_image(tmp_path/'out'/'000001.png').std() > 0

def test_serve(predictor, film, tmp_path):
    testing = pytest.importorskip('fastapi.testclient', reason='fastapi is an extra')
    client, flows = testing.TestClient(make_app(predictor)), expected(predictor, film)
    for i in (0, 1): write_image(film[i], tmp_path/f'{i}.png')
    a, b = ((tmp_path/f'{i}.png').read_bytes() for i in (0, 1))
    answer = client.post('/flow', files=dict(img1=a, img2=b), data=dict(format="flo"))
    assert answer.status_code == 200
    read = lambda data: np.frombuffer(data[12:], '<f4').reshape(*film[0].shape[:2], 2)
    np.testing.assert_array_equal(read(answer.content), flows[0])
    with VideoWriter(tmp_path/'film.avi', codec='FFV1') as w:
        for o in film: w.write(o)
    answer = client.post('/video', files=dict(video=(tmp_path/'film.avi').read_bytes()), data=dict(format='flo'))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as z: found = [read(z.read(o)) for o in z.namelist()]
    np.testing.assert_array_equal(found, flows)

def test_scores_and_tracks(predictor, film):
    assert clip_scores(film, predictor)['frames'] == 4
    assert track_points(film, np.float32([[20, 20], [50, 30]]), predictor, jumps=(1,)).xy.shape[0] == 4
