#!/usr/bin/env python3
"""Samples per second of the data pipelines, and milliseconds of the file readers, beside ptlflow and torchvision

    pip install ptlflow          # in a scratch environment; without it its columns stay empty
    OMP_NUM_THREADS=1 python benchmarks/data.py [--rounds 12] [--json FILE]

One process, one thread, files in the page cache. All competitors run in turn within each round, so that a busy machine slows them alike; the table shows the median of the rounds and the ratio of the medians.
The data are 16 pairs of 384x512 pixels in FlyingChairs' layout, made by `flowbook data make`. A sample is read, decoded, augmented and collated to float tensors, eight to a batch.

The same augmentation for everybody, as far as a peer has it:

- RAFT on Chairs: colour jitter .4/.4/.4/.16, one in five asymmetric; erasing; scale 2^(-.1..1) with stretch 2^(-.2..2), in four of five; crop 368x496; flips .5/.1.
- PWC-Net on Chairs: colour jitter .5 each, gamma, noise; flips; affine with relative motion; crop 384x448. ptlflow has no gamma and no shear: it gets rotation and translation, which are two passes there;
  torchvision has no joint affine transform of a pair and its flow, and is left out.
"""
import argparse, json, os, shutil, statistics, sys, tempfile, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import cv2, numpy as np, torch
from flowbook.augment.pipelines import create_augmentation
from flowbook.data.base import create_dataset
from flowbook.data.loaders import collate_samples, float_images, keep_memory
from flowbook.data.make import make_dataset
from flowbook.io.flowfiles import read_flow, read_flow_kitti, write_flow, write_flow_kitti
from flowbook.io.images import read_image
from flowbook.io.pfm import read_pfm, write_pfm

torch.set_num_threads(1); cv2.setNumThreads(1)

def flowbook_batches(root, name):
    ds = create_dataset('flyingchairs', root, split='all', tfm=create_augmentation(name) if name else None)
    batch = lambda k: float_images(collate_samples([ds.sample(i % len(ds), k) for i in range(8*k, 8*k + 8)]))
    return batch

def ptlflow_batches(root, kind):
    try:
        from ptlflow.data import flow_transforms as ft
        from ptlflow.data.datasets import FlyingChairsDataset
    except Exception as e:
        print(f'no ptlflow: {e}', file=sys.stderr)
        return None
    import random
    random.seed(0); np.random.seed(0); torch.manual_seed(0)
    erase, flip = ft.RandomPatchEraser(.5, (int(1), int(3)), (50, 100), 'mean'), ft.RandomFlip(.5, .1)
    raft = [ft.ToTensor(), ft.RandomScaleAndCrop((368, 496), (-.1, 1.), (-.2, .2)),
            ft.ColorJitter(.4, .4, .4, .5/3.14, .2), erase, flip]
    pwc = [ft.ToTensor(), ft.ColorJitter(.5, .5, .5, .5, 0.), ft.GaussianNoise(.04), ft.RandomFlip(.5, .5),
           ft.RandomTranslate((19, 26)), ft.RandomRotate(10, 1),
           ft.RandomScaleAndCrop((384, 448), (0., .58), (-.2, .2))]
    ds = FlyingChairsDataset(str(root), split='trainval',
                             transform=ft.Compose(dict(raft=raft, pwc=pwc, none=raft[:1])[kind]),
                             get_valid_mask=kind == 'raft', get_meta=False)
    from torch.utils.data import default_collate
    return lambda k: default_collate([ds[i % len(ds)] for i in range(8*k, 8*k + 8)])

def torchvision_batches(root, kind):
    "torchvision's own reader and transforms, put together as its reference training script for RAFT does"
    from PIL import Image
    from torchvision.datasets._optical_flow import _read_flo
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional as F
    jitter, erase = v2.ColorJitter(.4, .4, .4, .5/3.14), v2.RandomErasing(p=.5, scale=(.01, .05),
        ratio=(.5, 2.), value=0)
    def both(imgs):   # on PIL pictures, which is quicker than on tensors, and both at once, as RAFT's own code does
        return np.split(np.asarray(jitter(Image.fromarray(np.concatenate(imgs)))), 2)
    names = sorted(p.name[:-9] for p in (root/'data').glob('*_img1.ppm'))
    def item(i):
        stem = str(root/'data'/names[i % len(names)])
        imgs = [Image.open(f'{stem}_img{j}.ppm').convert('RGB') for j in (1, 2)]
        flow = torch.from_numpy(np.ascontiguousarray(_read_flo(f'{stem}_flow.flo')))
        flow = flow if flow.shape[0] == 2 else flow.permute(2, 0, 1)
        imgs = [np.asarray(jitter(t)) for t in imgs] if torch.rand(()) < .2 else both(imgs)
        imgs = [torch.from_numpy(np.array(t)).permute(2, 0, 1) for t in imgs]
        imgs = [imgs[0].float()/255, erase(imgs[1].float()/255)]
        if torch.rand(()) < .8:
            s = 2**torch.empty(1).uniform_(-.1, 1.).item()
            sx, sy = (max(s*2**torch.empty(1).uniform_(-.2, .2).item(), m)
                      for m in ((496 + 8)/512, (368 + 8)/384))
            size = [int(384*sy + .5), int(512*sx + .5)]
            imgs = [F.resize(t, size, antialias=False) for t in imgs]
            flow = F.resize(flow, size, antialias=False)*torch.tensor([size[1]/512, size[0]/384]).view(2, 1, 1)
        top, left = (int(torch.randint(0, n - c + 1, ())) for n, c in zip(flow.shape[1:], (368, 496)))
        imgs, flow = [F.crop(t, top, left, 368, 496) for t in imgs], F.crop(flow, top, left, 368, 496)
        if torch.rand(()) < .5:
            imgs, flow = [t.flip(-1) for t in imgs], flow.flip(-1)*torch.tensor([-1, 1]).view(2, 1, 1)
        if torch.rand(()) < .1:
            imgs, flow = [t.flip(-2) for t in imgs], flow.flip(-2)*torch.tensor([1, -1]).view(2, 1, 1)
        return (*imgs, flow, (flow.abs() < 1000).all(0))
    from torch.utils.data import default_collate
    return lambda k: default_collate([item(i) for i in range(8*k, 8*k + 8)])

def timed(competitors, rounds, per=1):
    "Median seconds of each competitor; one turn each per round"
    found = {k: [] for k in competitors}
    for f in competitors.values(): f(0)
    for r in range(1, rounds + 1):
        for k, f in competitors.items():
            start = time.perf_counter()
            for _ in range(per): f(r)
            found[k].append((time.perf_counter() - start)/per)
    return {k: statistics.median(v) for k, v in found.items()}

def readers(folder, kitti_file=None):
    "Competing readers of single files"
    rng, cases = np.random.default_rng(0), {}
    smooth = cv2.resize(rng.normal(0, 8, (12, 16, 2)).astype(np.float32), (512, 384),
                        interpolation=cv2.INTER_CUBIC)
    kitti = cv2.resize(smooth, (1242, 375))
    points = np.zeros((375, 1242), bool); points[125::2, ::2] = True   # a laser's pattern, more or less
    write_flow(smooth, folder/'a.flo'); write_flow_kitti(kitti, folder/'k.png', points); write_pfm(np.dstack([smooth, 0*smooth[..., 0]]), folder/'a.pfm')
    if kitti_file: shutil.copy(kitti_file, folder/'k.png')
    try: from ptlflow.utils.flow_utils import flow_read
    except Exception: flow_read = None
    peer = lambda f: {} if flow_read is None else {'ptlflow': lambda r: flow_read(folder/f)}
    cases['.flo 384x512'] = {'flowbook': lambda r: read_flow(folder/'a.flo'),
                             'np.fromfile': lambda r: np.fromfile(folder/'a.flo', np.float32)[3:].reshape(384, 512, 2)} | peer('a.flo')
    cases['KITTI PNG 375x1242'] = {'flowbook': lambda r: read_flow_kitti(folder/'k.png'),
                                   'cv2.imread': lambda r: cv2.imread(str(folder/'k.png'),
                                       cv2.IMREAD_UNCHANGED)} | peer('k.png')
    cases['PFM 384x512'] = {'flowbook': lambda r: read_pfm(folder/'a.pfm'),
                            'np.fromfile': lambda r: np.fromfile(folder/'a.pfm', np.float32)} | peer('a.pfm')
    ppm = next((folder/'chairs'/'data').glob('*_img1.ppm'))
    from PIL import Image
    cases['PPM 384x512'] = {'flowbook': lambda r: read_image(ppm),
                            'np.fromfile': lambda r: np.fromfile(ppm, np.uint8),
                            'PIL': lambda r: np.asarray(Image.open(ppm))}
    return cases

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=12)
    parser.add_argument('--json', type=Path)
    parser.add_argument('--keep-memory', action='store_true',
                        help="let malloc keep freed blocks, as FlowDL's workers do; for all competitors")
    parser.add_argument('--kitti', type=Path, help='a flow PNG of KITTI to read instead of one made here')
    args = parser.parse_args()
    if args.keep_memory: print(f'malloc keeps memory: {keep_memory()}')
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)/'chairs'
        make_dataset('flyingchairs', root, n=16, size=(384, 512), displacement=12.)
        table = {}
        for case, kinds in {'RAFT on Chairs':
            ('raft_chairs', 'raft', True), 'PWC-Net on Chairs': ('pwc_chairs', 'pwc', False)}.items():
            runs = {'floor': flowbook_batches(root, None), 'flowbook': flowbook_batches(root, kinds[0]),
                    'ptlflow': ptlflow_batches(root, kinds[1]),
                    'torchvision': torchvision_batches(root, kinds[1]) if kinds[2] else None}
            table[case] = {k: 8/v for k, v in timed({k: f for k, f in runs.items() if f},
                                                    args.rounds).items()}
        times = {case: {k: 1000*v for k, v in timed(runs, args.rounds, 5).items()}
                 for case, runs in readers(Path(tmp), args.kitti).items()}
    print('| samples per second | ' + ' | '.join(['floor: read, no augmentation', 'flowbook', 'ptlflow',
                                                  'torchvision',
                                                  'flowbook / faster peer']) + ' |\n|' + ' --- |'*6)
    for case, t in table.items():
        best = max((v for k, v in t.items() if k in ('ptlflow', 'torchvision')), default=float('nan'))
        print(f"| {case} | " + ' | '.join(f'{t[k]:.0f}' if k in t else ''
                                          for k in ('floor', 'flowbook', 'ptlflow',
                                                    'torchvision')) + f" | {t['flowbook']/best:.2f} |")
    print('\n| file | milliseconds | ratio to flowbook |\n| --- | --- | --- |')
    for case, t in times.items():
        print(f"| {case} | " + ', '.join(f'{k} {v:.3f}' for k, v in t.items()) + ' | ' + ', '.join(f"{k} {v/t['flowbook']:.2f}" for k, v in t.items() if k != 'flowbook') + ' |')
    if args.json:
        args.json.write_text(json.dumps(dict(samples_per_second=table, milliseconds=times), indent=1))

if __name__ == '__main__': main()
