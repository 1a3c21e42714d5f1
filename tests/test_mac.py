"""What a Mac's GPU lacks, nothing uses: every operator that networks, metrics, batch augmentations and tracks
call is looked up in PyTorch's own table. That takes no Mac; whether the rest is right, only a Mac can say"""
import traceback
from collections import Counter
from functools import cache
from pathlib import Path
import pytest, torch, torchgen, yaml
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from flowbook.augment import batch, batch_versions
from flowbook.augment.base import Compose
from flowbook.augment.spatial import RandomAffine
from flowbook.infer.tracks import Link, follow, points_at
from flowbook.models.registry import list_models
from flowbook.models.zoo import create_model
from flowbook.ops.backend import use_kernels
from flowbook.ops.warp import warp
from flowbook.train import metrics
from flowbook.train.losses import loss_for

ANYWHERE = {'MPS', 'CompositeExplicitAutograd', 'CompositeExplicitAutogradNonFunctional',
            'CompositeImplicitAutograd'}

@cache
def table():
    path = Path(torchgen.__file__).parent/'packaged/ATen/native/native_functions.yaml'
    found = yaml.load(path.read_text(encoding='utf-8'), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
    return {o['func'].split('(')[0]: o for o in found}

def is_missing(name):
    "Has a Mac's GPU no kernel for that operator?"
    o = table().get(name, {})
    if 'structured_delegate' in o: return is_missing(o['structured_delegate'])
    return 'dispatch' in o and not ANYWHERE & {k.strip() for o in o['dispatch'] for k in o.split(',')}

class OnTheCPU(torch.Tensor): "What `with_float64` has brought there"

class Mac(TorchDispatchMode):
    "Counts what a Mac's GPU could not do, and where it was asked for"
    def __init__(self):
        super().__init__()
        self.missing = Counter()
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if op.namespace == 'flowbook':   # of ours, what is inside
            with self: return OPDEFS[op._schema.name]._init_fn(*args, **kwargs)
        out, name = op(*args, **kwargs), op._schema.name.split('::')[1]
        tensors = [o for o in tree_leaves((args, kwargs, out)) if isinstance(o, torch.Tensor)]
        if any(isinstance(o, OnTheCPU) for o in tensors): return out
        wide = any(o.dtype in (torch.float64, torch.complex128) and o.dim() for o in tensors)
        wide &= name != 'lift_fresh'   # an array of NumPy, still on the CPU
        full = name if op._overloadname == 'default' else f'{name}.{op._overloadname}'
        pad = args['backward' in name:][3] if name.startswith('grid_sampler_2d') else 0
        found = f'{full} of float64' if wide else f'{name} with a border' if pad == 1 else full
        if wide or pad == 1 or is_missing(full):
            where = [f for f in traceback.extract_stack() if '/flowbook/' in f.filename]
            at = f'{Path(where[-1].filename).name}:{where[-1].lineno}' if where else 'the test'
            self.missing[f'{found}, {at}'] += 1
        return out

@pytest.fixture
def mac(monkeypatch):
    for o in batch_versions, metrics: monkeypatch.setattr(o, 'with_float64', lambda x: x.as_subclass(OnTheCPU))
    with use_kernels('0'), Mac() as found: yield found
    assert not found.missing, found.missing

def test_what_is_missing_is_found():
    x, grid = torch.rand(1, 1, 4, 4), torch.rand(1, 4, 4, 2)
    with Mac() as mac:
        x.double()
        torch.nn.functional.grid_sample(x, grid, padding_mode='border', align_corners=True)
        torch.nn.functional.grid_sample(x, grid, align_corners=True)
        x.take(torch.tensor([0]))
    assert len(mac.missing) == 3, mac.missing

@pytest.mark.parametrize('name', list_models())
def test_networks(name, mac):
    "Without numbers: what is called doesn't depend on them"
    with torch.device('meta'): model = create_model(name)
    imgs = torch.rand(model.frames, 1, 3, *[max(128, model.min_size)]*2, device='meta').unbind(0)
    try: out, flow = model(*imgs), imgs[0][:, :2]
    except NotImplementedError as e:
        assert 'copy out of meta' in str(e)
        pytest.skip('computes on the CPU, wherever the images are')
    try: loss = loss_for(model)(out, flow, flow[:, :1] > 0)
    except NotImplementedError: loss = out.flow.abs().mean()   # one that selects pixels needs numbers
    loss.backward()

@pytest.mark.parametrize('pad', ['zeros', 'border', 'reflection'])
def test_warp(pad, mac):
    x, flow = torch.rand(1, 3, 16, 16).requires_grad_(), torch.randn(1, 2, 16, 16).requires_grad_()
    warp(x, flow, padding_mode=pad).sum().backward()

def test_metrics(mac):
    pred, flow, occ = torch.rand(2, 2, 16, 16), torch.rand(2, 2, 16, 16), torch.rand(2, 1, 16, 16) > .5
    pred[0, 0, 0, 0] = torch.nan
    scores, epe = metrics.FlowScores(), metrics.EPE()
    scores.update(pred, flow, occ=occ, occ_pred=~occ)
    epe.update(pred, flow)
    assert scores.value['epe'] > 0

@pytest.mark.parametrize('sparse', [False, True])
def test_batch_augmentations(sparse, mac):
    imgs, flow = torch.rand(2, 2, 3, 32, 48), torch.rand(2, 2, 32, 48)
    change = batch.BatchAugment(Compose([RandomAffine()]), sparse=sparse)
    change((*imgs, flow, torch.rand(2, 1, 32, 48) > .5))

def test_tracks(mac):
    flow = torch.rand(1, 2, 16, 16)
    follow(points_at(torch.rand(1, 2, 3, 3)*20), Link(flow, flow[:, :1], flow[:, :1] > 0))
