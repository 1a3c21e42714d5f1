#!/usr/bin/env python3
"""Operators and whole models on the CPU: how long, how near the floor, and beside whom?

    python benchmarks/ops.py [ops] [models] [memory] [--rounds 5] [--threads 1] [--size 440 1024]

Times are CPU time of the process, the smallest of all rounds; competitors alternate within a round. The floor is arithmetic at the best rate that a 3x3 convolution
reaches in the same run. `ops` runs twice: with the allocator as it is, and with one that keeps freed memory (glibc only), because much of what simple code costs is page faults.
Peers are used where they are installed: torchvision, ptlflow, spatial-correlation-sampler, openvino. Weights are random and equal: speed is valid, accuracy is not asked.
"""
import argparse, importlib, os, platform, subprocess, sys, time, warnings
import torch, torch.nn.functional as F
from flowbook.core.grid import coords_grid
from flowbook.models.zoo import create_model
from flowbook.ops.backend import kernel_note, use_kernels
from flowbook.ops.correlation import correlation
from flowbook.ops.lookup import all_pairs
from flowbook.ops.upsample import convex_upsample
from flowbook.ops.warp import warp

keep = dict(MALLOC_MMAP_MAX_='0', MALLOC_TRIM_THRESHOLD_='8000000000', MALLOC_TOP_PAD_='268435456')
warnings.filterwarnings('ignore')

def peer(name):
    "A module, or None where it is not installed"
    try: return importlib.import_module(name)
    except Exception: return None

def race(runs, rounds):
    "Milliseconds of each of `runs`, taking turns"
    best = {k: float('inf') for k in runs}
    for k,f in runs.items(): f()
    for _ in range(rounds):
        for k,f in runs.items():
            n,start = 0,time.process_time()
            while n == 0 or time.process_time() - start < .02: f(); n += 1
            best[k] = min(best[k], 1e3*(time.process_time() - start)/n)
    return best

def mode(m, f):
    def g():
        with use_kernels(m): return f()
    return g

def gradients(f, *xs):
    def g():
        leaves = [x.detach().requires_grad_() for x in xs]
        out = f(*leaves)
        return torch.autograd.grad(out, leaves, torch.ones_like(out))
    return g

def band(f1, f2, r=4, wide=16):
    "Local correlation as products of bands: the fastest form in PyTorch alone"
    b,c,h,w = f1.shape
    n,d = -(-w//wide),2*r + 1
    a = F.pad(f1, (0, n*wide - w)).view(b, c, h, n, wide).permute(0, 2, 3, 4, 1)
    p = F.pad(f2, (r, r + n*wide - w, r, r)).unfold(3, wide + 2*r, wide)           # (b,c,h+2r,n,wide+2r)
    rows = []
    for i in range(d):
        prod = a @ p[:, :, i:i+h].permute(0, 2, 3, 1, 4)                            # (b,h,n,wide,wide+2r)
        s = prod.stride()
        rows.append(prod.as_strided((b, h, n, wide, d),
                                    (s[0], s[1], s[2], s[3] + 1, 1)).flatten(2, 3)[:, :, :w])
    return torch.stack(rows, 1).permute(0, 1, 4, 2, 3)

def ptl_corr():
    m = peer('ptlflow.utils.correlation')
    return m and m.IterSpatialCorrelationSampler

def floor_rate():
    "GFLOP/s of the best 3x3 convolution"
    x,w = torch.randn(1, 256, 55, 128).to(memory_format=torch.channels_last),torch.randn(256, 256, 3, 3).to(memory_format=torch.channels_last)
    return 2*9*256*256*55*128/race({'conv': lambda: F.conv2d(x, w, padding=1)}, 8)['conv']/1e6

def ops(rounds):
    rate = floor_rate()
    print(f'\nfloor: {rate:.0f} GFLOP/s; allocator: {"keeps freed memory" if "MALLOC_MMAP_MAX_" in os.environ else "default"}; kernels: {kernel_note().split(",")[0]}\n')
    print('| operator | shape | direction | type | who | ms | x floor | x kernel |\n| --- | --- | --- | --- | --- | ---: | ---: | ---: |')
    def show(name, shape, direction, dtype, times, flop):
        for who,ms in times.items():
            print(f"| {name} | {shape} | {direction} | {dtype} | {who} | {ms:.3g} | {ms/(1e3*flop/rate/1e9):.1f} | {ms/times['kernel']:.1f} |", flush=True)
    scs,ptl = peer('spatial_correlation_sampler'),ptl_corr()
    for shape in ((1, 32, 112, 256), (1, 128, 28, 64), (8, 64, 48, 64), (1, 196, 7, 16)):
        f1,f2 = torch.randn(2, *shape)
        ours = lambda a, b: correlation(a, b, max_displacement=4)
        forms = {'kernel': ('auto', ours), 'PyTorch (default without kernels)': ('0', ours),
                 'PyTorch (band product)': ('0', band)}
        if ptl:
            forms['ptlflow'] = ('0', ptl(kernel_size=1, patch_size=9, stride=1, padding=0, dilation_patch=1))
        if scs:
            forms['spatial-correlation-sampler'] = ('0', lambda a, b: scs.spatial_correlation_sample(a, b, kernel_size=1, patch_size=9))
        name,flop = 'x'.join(map(str, shape)),2*81*f1.numel()
        show('correlation', name, 'forward', 'float32',
             race({k: mode(m, lambda f=f: f(f1, f2)) for k,(m,f) in forms.items()}, rounds), flop)
        show('correlation', name, 'both', 'float32',
             race({k: mode(m, gradients(f, f1, f2)) for k,(m,f) in forms.items()}, max(1, rounds//2)), 3*flop)
        h1,h2 = f1.bfloat16(),f2.bfloat16()
        show('correlation', name, 'forward', 'bfloat16', race({'kernel': lambda: ours(h1, h2)}, rounds), flop)
    lookups(rounds, show)

def lookups(rounds, show):
    from torchvision.models.optical_flow.raft import CorrBlock
    f1,f2 = torch.randn(2, 1, 256, 55, 128)
    coords = coords_grid(1, 55, 128) + F.interpolate(6*torch.randn(1, 2, 7, 16), (55, 128), mode='bicubic')
    theirs = CorrBlock(num_levels=4, radius=4)
    theirs.build_pyramid(f1, f2)
    stored,fly = (all_pairs(f1, f2, corr=c) for c in ('volume', 'on_the_fly'))
    half = all_pairs(f1.bfloat16(), f2.bfloat16(), corr='on_the_fly')
    n = 55*128
    show('build the volume', '256x55x128', 'once', 'float32',
         race({'kernel': lambda: all_pairs(f1, f2, corr='volume'),
               'torchvision': lambda: theirs.build_pyramid(f1, f2)}, rounds), 2*256*n*n)
    show('lookup in the volume', '256x55x128', 'forward', 'float32',
         race({'kernel': mode('auto', lambda: stored(coords)), 'PyTorch': mode('0', lambda: stored(coords)),
         'torchvision': lambda: theirs.index_pyramid(coords)}, rounds), 2*3*4*81*n)
    forms = {'kernel': mode('auto', lambda: fly(coords)), 'PyTorch': mode('0', lambda: fly(coords)),
             'kernel, bfloat16': lambda: half(coords)}
    show('lookup on the fly', '256x55x128', 'forward', 'float32', race(forms, rounds), 2*256*n*4*100)
    forms = {'kernel': mode('auto', gradients(lambda a, b: all_pairs(a, b, corr='on_the_fly')(coords), f1,
                                              f2)),
             'through the volume': mode('auto', gradients(lambda a, b: all_pairs(a, b, corr='volume')(coords),
                 f1, f2))}
    show('lookup on the fly', '256x55x128', 'both', 'float32', race(forms, max(1, rounds//2)),
         3*2*256*n*4*100)
    flow,mask = torch.randn(1, 2, 55, 128),torch.randn(1, 576, 55, 128)
    from torchvision.models.optical_flow._utils import upsample_flow
    show('convex upsampling', '55x128', 'forward', 'float32',
         race({'kernel': mode('auto', lambda: convex_upsample(flow, mask)),
               'PyTorch': mode('0', lambda: convex_upsample(flow, mask)),
         'torchvision': lambda: upsample_flow(flow, mask)}, rounds), 2*2*576*n)
    x,flow = torch.randn(1, 32, 112, 256),4*F.interpolate(torch.randn(1, 2, 14, 32), (112, 256),
        mode='bilinear')
    for m in (True, False):
        show(f'warp{", masked" if m else ""}', '32x112x256', 'forward', 'float32',
             race({'kernel': mode('auto', lambda: warp(x, flow, use_mask=m)),
                   'PyTorch': mode('0', lambda: warp(x, flow, use_mask=m))}, rounds), 8*x.numel())

# ---- whole models ----

def bf16(f):
    def g():
        with torch.autocast('cpu', torch.bfloat16): return f()
    return g

def models(rounds, size):
    print(f'\nwhole models, {size[0]}x{size[1]}, batch 1, 12 iterations where a model iterates\n\n| model | who | CPU s | times as fast as the peer | mean difference, px | largest |\n| --- | --- | ---: | ---: | ---: | ---: |')
    a,b = torch.rand(2, 1, 3, *size)
    b = .7*a + .3*b
    with torch.no_grad():
        for name,runs in contestants(a, b).items():
            best,out = {k: float('inf') for k in runs},{}
            for _ in range(rounds):
                for k,f in runs.items():
                    start = time.process_time()
                    out[k] = f()
                    best[k] = min(best[k], time.process_time() - start)
            first = next(iter(runs))
            for k in runs:
                d = (out[k].float() - out[first].float()).abs()
                print(f'| {name} | {k} | {best[k]:.2f} | {best[first]/best[k]:.2f} | {d.mean():.1e} | {d.max():.1e} |', flush=True)

def contestants(a, b):
    found = {}
    from torchvision.models.optical_flow import raft_large, raft_small
    import tempfile
    for name,make in (('raft', raft_large), ('raft_small', raft_small)):
        torch.manual_seed(0)
        theirs = make(weights=None).eval()
        with tempfile.TemporaryDirectory() as tmp:
            torch.save(theirs.state_dict(), f'{tmp}/w.pth')
            ours = create_model(name, weights=f'{tmp}/w.pth').eval()
        tv = lambda m=theirs: m(2*a - 1, 2*b - 1, num_flow_updates=12)[-1]
        fly,volume = (lambda m=ours, c=c: m(a, b, iters=12, corr=c).flow for c in ('on_the_fly', 'volume'))
        found[name] = {'torchvision': tv, 'flowbook without kernels': mode('0', volume),
                       'flowbook, volume': volume, 'flowbook': fly, 'torchvision, bfloat16': bf16(tv),
                       'flowbook, bfloat16': bf16(fly)}
        if (ov := peer('openvino')): found[name]['openvino of torchvision'] = openvino(ov, theirs, a, b)
    for name in ('pwcnet', 'liteflownet'):
        if not (theirs := ptl_model(name)): continue
        ours = create_model(name).eval()
        flow = lambda m=ours: m(a, b).flow
        found[name] = {'ptlflow': theirs(a, b), 'flowbook without kernels': mode('0', flow), 'flowbook': flow,
                       'flowbook, bfloat16': bf16(flow)}
    return found

def ptl_model(name):
    if not (ptl := peer('ptlflow')): return None
    model = ptl.get_model(name).eval()
    return lambda a, b: lambda: model({'images': torch.stack([a, b], 1)})['flows'][:, 0]

def openvino(ov, model, a, b):
    class Last(torch.nn.Module):
        def __init__(self): super().__init__(); self.m = model
        def forward(self, a, b): return self.m(a, b, num_flow_updates=12)[-1]
    x,y = 2*a - 1,2*b - 1
    compiled = ov.compile_model(ov.convert_model(Last(), example_input=(x, y), input=[list(x.shape)]*2),
                                'CPU', {'INFERENCE_NUM_THREADS': torch.get_num_threads(),
                                        'INFERENCE_PRECISION_HINT': 'f32'})
    return lambda: torch.from_numpy(compiled([x.numpy(), y.numpy()])[0].copy())

def memory(sizes=((440, 1024), (1080, 1920), (2160, 3840))):
    print('\nRAFT-large, two iterations (memory does not grow with them)\n\n| size | correlation | peak of the process, MB | of which PyTorch and flowbook imported |\n| --- | --- | ---: | ---: |', flush=True)
    code = 'import torch; from flowbook.models.zoo import create_model; m = create_model("raft").eval()\n' \
           'def peak(): return next(int(l.split()[1])//1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))\nstart = peak()\n' \
           'a = torch.rand(1, 3, {h}, {w})\nwith torch.no_grad(): m(a, a, iters=2)\nprint(peak(), start)'
    for h,w in sizes:
        res = subprocess.run([sys.executable, '-c', code.format(h=h, w=w)], capture_output=True, text=True)
        peak,start = res.stdout.split() if res.returncode == 0 else ('fails', '')
        print(f'| {h}x{w} | auto | {peak} | {start} |', flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('parts', nargs='*', default=['ops', 'models', 'memory'])
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--threads', type=int, default=1)
    ap.add_argument('--size', type=int, nargs=2, default=(440, 1024))
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if 'MALLOC_MMAP_MAX_' not in os.environ:
        print(f"{time.strftime('%d %B %Y')}, torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {args.threads} thread(s)")
    if 'ops' in args.parts:
        ops(args.rounds)
        if 'MALLOC_MMAP_MAX_' not in os.environ:
            subprocess.run([sys.executable, __file__, 'ops', '--rounds', str(args.rounds), '--threads',
                            str(args.threads)], env=os.environ | keep)
    if 'models' in args.parts: models(max(1, args.rounds//2), args.size)
    if 'memory' in args.parts: memory()

if __name__ == '__main__': main()
