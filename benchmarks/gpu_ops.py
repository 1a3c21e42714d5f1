#!/usr/bin/env python3
"""The CUDA kernels beside their peers, and whole models, on the GPU of this machine; prints Markdown tables

    python benchmarks/gpu_ops.py [--rounds 30] [--only 'lookup*'] [--models] [--json FILE]

Times are device events around one call, medians over the rounds; all competitors of a row run in turn within each round. Before each call 256 MB are overwritten, so that nothing is left in the cache.
The floor is what must pass between memory and chip (inputs and outputs once; of a volume only what a window touches), divided by the bandwidth of a large copy measured at the start of the same run.
"flowbook" calls the kernels' launchers, "PyTorch" the same operator with FLOWBOOK_KERNELS=0, "torchvision" its RAFT's lookup, "sampler" the package spatial-correlation-sampler where it can be imported.
With --models: RAFT and PWC-Net at 440x1024 in float32 and bfloat16 autocast, eager, compiled and as a CUDA graph, beside torchvision's RAFT with the same number of updates; peak memory at 1080x1920 and 2160x3840.
Every row checks its result against PyTorch's first, and says by how much they differ. Without a GPU it says so and leaves with 2.
"""
import argparse, fnmatch, json, statistics, sys
from functools import partial
import torch
import torch.nn.functional as F

dtypes = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}

def timed(calls, rounds):
    "Median milliseconds of each of `calls` (name: function)"
    scratch, found = torch.empty(64 << 20, device='cuda'), {k: [] for k in calls}
    for f in calls.values():
        for _ in range(3): f()
    for _ in range(rounds):
        for k, f in calls.items():
            scratch.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(); f(); end.record()
            end.synchronize()
            found[k].append(start.elapsed_time(end))
    return {k: statistics.median(v) for k, v in found.items()}

def bandwidth():
    "Bytes per second, read and written, of a 1 GB copy"
    a = torch.empty(256 << 20, device='cuda')
    b = torch.empty_like(a)
    return 2*a.numel()*4/timed({'copy': lambda: b.copy_(a)}, 10)['copy']*1e3

def plain(f, *args, **kw):
    "Call operator `f` in PyTorch alone"
    from flowbook.ops.backend import use_kernels
    with use_kernels('0'): return f(*args, **kw)

def both(f, leaves, grad):
    "Gradients of an operator in PyTorch alone"
    return partial(plain, lambda: torch.autograd.grad(f(*leaves), leaves, grad))

def leaf(*ts): return [t.detach().clone().requires_grad_() for t in ts]

def correlation_rows(dtype):
    from flowbook.ops.correlation import correlation
    from flowbook.ops import cuda_kernels as ck
    for shape, m, dp in (((1, 32, 112, 256), 4, 1), ((1, 128, 28, 64), 4, 1), ((8, 64, 48, 64), 4, 1),
                         ((1, 196, 7, 16), 4, 1), ((1, 256, 55, 128), 10, 2)):
        f1, f2 = (torch.randn(shape, device='cuda').to(dtype) for _ in range(2))
        numbers, size, D = (1, m, 1, 0, 1, dp), f1.element_size(), 2*m + 1
        out = f1.numel()//shape[1]*D*D
        op = partial(correlation, max_displacement=m, dilation_patch=dp)
        calls = {'flowbook': lambda: ck.correlation_forward(f1, f2, *numbers),
                 'PyTorch': lambda: plain(op, f1, f2)}
        try:
            from spatial_correlation_sampler import spatial_correlation_sample
            calls['sampler'] = lambda: spatial_correlation_sample(f1, f2, kernel_size=1, patch_size=D,
                stride=1, padding=0, dilation_patch=dp)
        except ImportError: pass
        name = f'{"x".join(map(str, shape))}, {D}x{D}' + f' step {dp}'*(dp > 1)
        yield f'correlation {name}', 'forward', calls, (2*f1.numel() + out)*size
        grad, leaves = torch.randn(shape[0], D, D, *shape[2:], device='cuda').to(dtype), leaf(f1, f2)
        yield f'correlation {name}', 'backward', {'flowbook': lambda: ck.correlation_backward(grad, f1, f2, *numbers), 'PyTorch, forward too': both(op, leaves, grad)}, (4*f1.numel() + out)*size

def lookup_rows(dtype):
    from flowbook.ops import cuda_kernels as ck
    from flowbook.ops.lookup import corr_lookup, corr_on_the_fly, corr_pyramid, pool_features
    from torchvision.models.optical_flow.raft import CorrBlock
    for h, w in ((55, 128), (135, 240)):
        f1, f2 = (torch.randn(1, 256, h, w, device='cuda').to(dtype) for _ in range(2))
        y, x = torch.meshgrid(torch.arange(h, device='cuda'), torch.arange(w, device='cuda'), indexing='ij')
        smooth = F.interpolate(torch.randn(1, 2, h//8, w//8, device='cuda')*6, (h, w), mode='bilinear')
        coords, N, size = (torch.stack([x, y]) + smooth).contiguous(), h*w, f1.element_size()
        f2s, out, seen = pool_features(f2, 4), 324*N, 400*N
        maps, tv = corr_pyramid(f1, f2, 4), CorrBlock(num_levels=4, radius=4)
        calls = {'flowbook': lambda: ck.lookup_forward(maps, coords, 4),
                 'PyTorch': lambda: plain(corr_lookup, maps, coords, 4)}
        if dtype == torch.float32:
            tv.build_pyramid(f1, f2)
            calls['torchvision'] = lambda: tv.index_pyramid(coords)
        yield f'lookup in the volume, {h}x{w}', 'forward', calls, (seen + out)*size + 8*N
        grad, shapes = torch.randn(1, 324, h, w, device='cuda').to(dtype), [m.shape for m in maps]
        volume = sum(m.numel() for m in maps)
        yield f'lookup in the volume, {h}x{w}', 'backward', {'flowbook': lambda: ck.lookup_backward(grad, coords, 4, shapes)}, (volume + seen + out)*size
        fly, leaves = (N + sum(f.shape[-2]*f.shape[-1] for f in f2s))*256, leaf(f1, *f2s)
        calls = {'flowbook': lambda: ck.fly_forward(f1, f2s, coords, 4),
                 'PyTorch': lambda: plain(corr_on_the_fly, f1, f2s, coords, 4)}
        yield f'lookup on the fly, {h}x{w}', 'forward', calls, (fly + out)*size + 8*N
        again = lambda a, *maps: corr_on_the_fly(a, list(maps), coords, 4)
        yield f'lookup on the fly, {h}x{w}', 'backward', {'flowbook': lambda: (lambda a, b: (a, *b))(*ck.fly_backward(grad, f1, f2s, coords, 4)), 'PyTorch, forward too': both(again, leaves, grad)}, (2*fly + out)*size + 8*N
        if dtype == torch.float32:
            def built():
                tv.build_pyramid(f1, f2)
                for _ in range(12): out = tv.index_pyramid(coords)
                return out
            def flown():
                for _ in range(12): out = ck.fly_forward(f1, f2s, coords, 4)
                return out
            yield f'12 lookups from features, {h}x{w}', 'forward', {'flowbook': flown, 'torchvision': built}, 12*((fly + out)*size + 8*N)

def upsample_rows(dtype):
    from flowbook.ops import cuda_kernels as ck
    from flowbook.ops.upsample import convex_upsample
    h, w = 55, 128
    flow, mask = (torch.randn(1, c, h, w, device='cuda').to(dtype) for c in (2, 576))
    size, leaves, grad = flow.element_size(), leaf(flow, mask), torch.randn(1, 2, 8*h, 8*w, device='cuda').to(dtype)
    op = lambda a, b: convex_upsample(a, b, 8)
    yield f'convex upsampling, {h}x{w}', 'forward', {'flowbook': lambda: ck.upsample_forward(flow, mask, 8),
                                                     'PyTorch': lambda: plain(op, flow, mask)}, (578 + 128)*h*w*size
    yield f'convex upsampling, {h}x{w}', 'backward', {'flowbook': lambda: ck.upsample_backward(grad, flow, mask, 8), 'PyTorch, forward too': both(op, leaves, grad)}, (2*578 + 128)*h*w*size

def warp_rows(dtype):
    from flowbook.ops import cuda_kernels as ck
    from flowbook.ops.warp import warp
    for shape in ((1, 32, 112, 256), (8, 3, 448, 1024), (1, 128, 28, 64)):
        x, flow = torch.randn(shape, device='cuda').to(dtype), torch.randn(shape[0], 2, *shape[2:], device='cuda')*3
        size, leaves, grad = x.element_size(), leaf(x, flow), torch.randn(shape, device='cuda').to(dtype)
        name = f'warp, {"x".join(map(str, shape))}'
        yield name, 'forward', {'flowbook': lambda: ck.warp_forward(x, flow, True),
                                'PyTorch': lambda: plain(warp, x, flow)}, 2*x.numel()*size + 4*flow.numel()
        yield name, 'backward', {'flowbook': lambda: ck.warp_backward(grad, x, flow, True),
                                 'PyTorch, forward too': both(warp, leaves, grad)}, 3*x.numel()*size + 8*flow.numel()

groups = dict(correlation=correlation_rows, lookup=lookup_rows, upsample=upsample_rows, warp=warp_rows)

def apart(a, b):
    "Largest relative distance between two results, tensors or lists of them"
    pair = lambda t: [t] if torch.is_tensor(t) else list(t)
    return max(((x.double() - y.double()).norm()/y.double().norm().clamp(min=1e-12)).item()
               for x, y in zip(pair(a), pair(b)))

def op_table(pattern, rounds, per_second):
    rows = []
    for group, make in groups.items():
        if not fnmatch.fnmatch(group, pattern): continue
        for name, dtype in dtypes.items():
            for what, way, calls, moved in make(dtype):
                row = dict(op=what, dtype=name, way=way, MB=moved/1e6, floor_ms=moved/per_second*1e3)
                try:
                    found, working = {'flowbook': calls['flowbook']()}, dict(calls)
                    for k in list(calls)[1:]:
                        try: found[k] = calls[k]()
                        except (RuntimeError, TypeError, ValueError):
                            del working[k] # a peer that does not take this type
                    row['apart'] = max((apart(found['flowbook'], v) for k, v in found.items()
                                        if k != 'flowbook'), default=None)
                    del found
                    row['ms'] = timed(working, rounds)
                    row['share'] = row['floor_ms']/row['ms']['flowbook']
                except (RuntimeError, ValueError) as e: row['failed'] = str(e).splitlines()[0][:100]
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    return rows

def print_ops(rows):
    print('| operator | type | | flowbook ms | share of the floor | peers ms (ratio) | largest difference |\n| --- | --- | --- | ---: | ---: | --- | ---: |')
    for r in rows:
        if 'failed' in r: print(f"| {r['op']} | {r['dtype']} | {r['way']} | {r['failed']} | | | |"); continue
        ours = r['ms']['flowbook']
        peers = ', '.join(f'{k} {v:.3f} ({v/ours:.1f}x)' for k, v in r['ms'].items() if k != 'flowbook')
        print(f"| {r['op']} | {r['dtype']} | {r['way']} | {ours:.3f} | {r['share']:.0%} | {peers} | {'' if r['apart'] is None else format(r['apart'], '.1e')} |")

def graphed(f):
    "`f` recorded as a CUDA graph"
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3): f()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): out = f()
    def replay():
        graph.replay()
        return out
    return replay

def models():
    "Name and a function of two pictures in [0,1] that returns the flow; 12 updates where a model iterates"
    from flowbook.models.zoo import create_model
    from torchvision.models.optical_flow import raft_large
    raft, pwc, theirs = (m.eval().cuda()
                         for m in (create_model('raft'), create_model('pwcnet'), raft_large(weights=None)))
    yield 'flowbook raft', lambda a, b: raft(a, b, iters=12).flow
    yield 'torchvision raft_large', lambda a, b: theirs(2*a - 1, 2*b - 1, num_flow_updates=12)[-1]
    yield 'flowbook pwcnet', lambda a, b: pwc(a, b).flow

@torch.inference_mode()
def model_table(rounds):
    rows, way = [], {'eager': lambda f: f, 'CUDA graph': graphed}
    for name, model in models():
        for kind in ('float32', 'bfloat16'):
            pair = [torch.rand(1, 3, 440, 1024, device='cuda') for _ in range(2)]
            def step(model=model):
                with torch.autocast('cuda', torch.bfloat16, enabled=kind == 'bfloat16'): return model(*pair)
            row, calls = dict(model=name, dtype=kind), {}
            for k, f in {**way, 'compiled': lambda f: torch.compile(f)}.items():
                try:
                    torch._dynamo.reset()
                    calls[k] = f(step)
                    calls[k]()
                except Exception as e: # whatever a model does to a compiler: the table says so
                    calls.pop(k, None)
                    row[k] = type(e).__name__
            row.update(timed(calls, rounds))
            for h, w in ((1080, 1920), (2160, 3840)):
                try:
                    big = [torch.rand(1, 3, -(-h//8)*8, w, device='cuda') for _ in range(2)]
                    torch.cuda.reset_peak_memory_stats()
                    with torch.autocast('cuda', torch.bfloat16, enabled=kind == 'bfloat16'): model(*big)
                    row[f'{h}p'] = torch.cuda.max_memory_allocated()/2**30
                except torch.cuda.OutOfMemoryError: row[f'{h}p'] = 'out of memory'
                torch.cuda.empty_cache()
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows

def print_models(rows):
    print('\n| model, 440x1024 | type | eager ms | compiled ms | CUDA graph ms | GB at 1080x1920 | GB at 2160x3840 |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |')
    cell = lambda v: f'{v:.2f}' if isinstance(v, float) else v or ''
    for r in rows:
        print(f"| {r['model']} | {r['dtype']} | " + ' | '.join(cell(r.get(k))
            for k in ('eager', 'compiled', 'CUDA graph', '1080p', '2160p')) + ' |')

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--rounds', type=int, default=30)
    ap.add_argument('--only', default='*', help=f"of {', '.join(groups)}; shell-style")
    ap.add_argument('--models', action='store_true', help='time whole models too')
    ap.add_argument('--json', help='file for all figures')
    args = ap.parse_args()
    if not torch.cuda.is_available():
        print('no GPU')
        sys.exit(2)
    torch.manual_seed(0)
    per_second = bandwidth()
    print(f'{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}; copy of 1 GB: {per_second/1e9:.0f} GB/s\n')
    rows = op_table(args.only, args.rounds, per_second)
    print_ops(rows)
    found = model_table(args.rounds) if args.models else []
    if found: print_models(found)
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as f:
            json.dump(dict(gpu=torch.cuda.get_device_name(), bandwidth=per_second, ops=rows, models=found), f,
                      indent=1)

if __name__ == '__main__': main()
