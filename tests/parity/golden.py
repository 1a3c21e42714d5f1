"""What the networks of others computed, to compare ours with: their weights are made anew from the names of their keys.

`load_golden(name)` opens the full recording, which is kept outside the repository in the folder that FLOWBOOK_SHARED names, or in a
folder `shared` next to the clone; None where there is none. `Golden(name)` opens the reduced one of this folder, which is always there.
"""
import json, os, zipfile, zlib
from pathlib import Path
import numpy as np

here = Path(__file__).resolve().parent
# How much further from the recording than float64 is a port may be: another processor adds up in another order, and so may a later
# PyTorch. Without oneDNN, the recorded code itself comes out up to 2.5 times as far away.
ROOM = 8
LOSS = 5e-6     # of a loss, relative: recorded float32 and float64 differ by up to 1.4e-7, and a mean over 24 576 pixels rounds more often
GRADIENT = 1e-3 # of the norm of a gradient, relative: it has gone through every layer twice; no float64 is recorded

def shared_path(*parts):
    "Data that is kept outside the repository: the path, or None where it does not exist"
    path = Path(os.environ.get('FLOWBOOK_SHARED') or here.parents[2]/'shared').joinpath(*parts)
    return path if path.exists() else None

def skip_note(what):
    "Say that a test was skipped for want of `what`"
    print(f'skipped: {what} not found')

def features(name, shape, scale=1.):
    "Signed random numbers, seeded by their name"
    return (scale*np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape))).astype(np.float32)

def made_weight(key, shape, kind, gain=1., scale=1.):
    "The values of one key"
    z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    rules = dict(weight=lambda: z*(gain*np.sqrt(1/np.prod(shape[1:]))), gain=lambda: 1 + .1*z,
                 bias=lambda: .05*z,
                 running_mean=lambda: .1*z, running_var=lambda: 1 + .1*np.abs(z))
    return (rules[kind]()*scale).astype(np.float32)

def integers(key, shape):
    "The buffers that a network constructs"
    if key.endswith('num_batches_tracked'): return np.zeros((), np.int64)
    n = shape[0] # GMA's table of relative positions
    return np.arange(n)[None] - np.arange(n)[:, None] + n - 1

def load_golden(name):
    "The full recording of a model, for example 'pwcnet'; None where it is missing"
    folder = shared_path('golden')
    found = [p for p in (folder.glob('**/golden.npz') if folder else ())
             if p.parent.name.replace('-', '_')==Path(name).name.replace('-', '_')]
    return Golden(found[0].parent.relative_to(folder).as_posix(), folder) if found else None

class Golden:
    "A recorded run: weights, input, every output, losses and the norms of the gradients"
    def __init__(self, path, folder=None):
        self.path, self.folder = path, folder and Path(folder)
        self.name = Path(path).name.replace('-', '_') # the model's
        self.meta, self.grad_norms = self.json('meta'), self.json('grad_norms')
        self.keys = self.json('keys')['keys']
        self.arrays = self.npz(f'{path}/golden.npz')
        self.input = self.npz(self.meta.get('input_file', 'input.npz'))

    def json(self, what):
        if self.folder: return json.loads((self.folder/self.path/f'{what}.json').read_text(encoding='utf-8'))
        with zipfile.ZipFile(here/'reduced.zip') as z: return json.loads(z.read(f'{self.path}/{what}.json'))

    def npz(self, path):
        if self.folder: return dict(np.load(self.folder/path))
        with zipfile.ZipFile(here/'reduced.zip') as z, z.open(path) as f: return dict(np.load(f))

    @property
    def imgs(self):
        "What the recorded network was fed"
        return self.net3() if 'img0' in self.input else self.npz(self.meta['imgs_file'])['imgs']

    def gain_of(self, key):
        return next((g for p,g in self.meta.get('weight_gains', []) if key.startswith(p)),
                    self.meta['weight_gain'])

    def weights(self):
        "Every key with its values, checked"
        out = {}
        for k,o in self.keys.items():
            like = o.get('same_as', k) # one tensor under two names
            if o['kind']=='int': out[k] = integers(k, o['shape'])
            elif o['kind']=='const': out[k] = self.arrays[f'buffer/{k}'] # fixed kernels
            else: out[k] = made_weight(like, o['shape'], o['kind'], self.gain_of(like), o.get('scale', 1.))
            assert list(out[k].shape)==o['shape'] and zlib.crc32(np.ascontiguousarray(out[k]).tobytes())==o['crc32'], k
        return out

    def state_dict(self):
        import torch
        return {k: torch.from_numpy(np.ascontiguousarray(v)) for k,v in self.weights().items()}

    def rgb(self, *names):
        "Frames as flowbook takes them: `(1,3,H,W)`, RGB in [0,1]"
        return tuple(np.ascontiguousarray(self.input[k][..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32)/255 for k in names)
    def rgb01(self): return self.rgb('img1', 'img2')
    def frames3(self): return self.rgb('img0', 'img1', 'img2')
    def net3(self):
        "What MEMFOF's encoders see: three frames in [-1,1]"
        return np.concatenate([2*f - 1 for f in self.frames3()], 1)

    def parts(self):
        "Single parts on signed random input: inputs by name, results by name"
        return {k: features(k, **o)
                for k,o in self.meta['part_inputs'].items()}, self.npz(f'{self.path}/parts.npz')

    def decoder(self):
        "The decoder alone on signed random features: what is known of it, and its results; None where there is none"
        if not (self.folder/self.path/'decoder.json').exists(): return None
        info = self.json('decoder')
        if isinstance(stated := info.get('fp32_vs_fp64_max_abs'), float): info['tolerance'] = ROOM*stated
        return info, self.npz(f'{self.path}/decoder.npz')

    def tolerance(self, of='flow'):
        """How far from the recording an output may lie: `ROOM` times what the recording says of float32 against float64. Where it says
        nothing about the arrays whose names begin with `of`, they have the share of their largest value that the flow has of its own"""
        stated = self.meta['fp32_vs_fp64']
        if 'max_abs' in stated: stated = dict(flow=stated)
        if of in stated: return ROOM*stated[of]['max_abs']
        size = lambda name: max(float(np.abs(v).max()) for k,v in self.arrays.items() if k.startswith(name))
        share = max(v['max_abs']/size(k) for k,v in stated.items() if k.startswith('flow')
                    and any(a.startswith(k) for a in self.arrays))
        return ROOM*share*size(of)

NEWER = ('sea_raft_s', 'sea_raft_m', 'sea_raft_l', 'neuflow2', 'gmflow', 'gmflow_refine', 'unimatch_refine6',
         'dpflow') # from their authors' code, in the folder `modern`
EVERY = 4 # pixels of the full recording to one of the reduced one, each way

def reduce(out=here/'reduced.zip'):
    "Make the reduced set from the full one: the flow at every fourth pixel, fixed kernels, losses, norms of gradients, keys"
    import io
    root, told = shared_path('golden'), ('n_params', 'weight_gain', 'weight_gains', 'input_file', 'config',
                                         'fp32_vs_fp64', 'losses', 'flow_loss_cfg')
    def pack(**arrays):
        np.savez(f := io.BytesIO(), **arrays)
        return f.getvalue()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        add = lambda name, data: z.writestr(zipfile.ZipInfo(name, (2026, 11, 1, 0, 0, 0)), data,
                                            zipfile.ZIP_DEFLATED, 9) # no time of day: same bytes
        add('input.npz', pack(**np.load(root/'input.npz')))
        for path in (*sorted(p.parent.name for p in root.glob('*/golden.npz')),
                     *(f'modern/{n}' for n in NEWER)):
            full = Golden(path, root)
            arrays = {k: v if k.startswith('buffer/') else v[::EVERY, ::EVERY] for k,v in full.arrays.items()
                      if k.startswith(('flow', 'buffer/'))}
            meta = dict(grad_norms=full.grad_norms, keys=dict(keys=full.keys),
                        meta={k: full.meta[k] for k in told if k in full.meta})
            for k,v in meta.items(): add(f'{full.path}/{k}.json', json.dumps(v, separators=(',', ':')))
            add(f'{full.path}/golden.npz', pack(**arrays))

def reduced_paths():
    "What the reduced set holds"
    with zipfile.ZipFile(here/'reduced.zip') as z:
        return sorted(n.removesuffix('/golden.npz') for n in z.namelist() if n.endswith('/golden.npz'))

if __name__=='__main__': reduce()
