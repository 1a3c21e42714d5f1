"""The CUDA kernels without a GPU: NVRTC compiles them for five architectures, and a CPU runs the same text thread by thread against PyTorch

g++ compiles each source with a small header that plays the GPU: the threads of a block are coroutines, and a barrier hands over to the next one.
Strict where a GPU is forgiving: shared memory starts as NaN, a thread that leaves before a barrier is an error, and every launch runs twice, the threads
in rising and in falling order, so that a missing barrier shows. All tensors lie between NaNs that must neither be read nor overwritten.
"""
import contextlib, ctypes, hashlib, os, re, shutil, subprocess, sys, time
from types import SimpleNamespace
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from flowbook.core.errors import FlowbookError
from flowbook.ops import cuda_kernels as ck, nvrtc
from flowbook.ops.correlation import correlation_ref
from flowbook.ops.cuda_source import CUDA_TYPES, cuda_source, list_cuda_kernels
from flowbook.ops.lookup import corr_lookup, corr_pyramid
from flowbook.ops.upsample import convex_upsample
from flowbook.ops.warp import warp

HEADER = r'''
#include <math.h>
#include <string.h>
#include <ucontext.h>
#include <utility>
#include <vector>
#define FLOWBOOK_EMULATED
#define __global__
#define __device__ static
#define __forceinline__ inline
#define __launch_bounds__(n, blocks)
#define __grid_constant__
#define __shared__ static
struct Three { unsigned x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
static Three threadIdx, blockIdx, blockDim, gridDim;
alignas(16) static char emulated_shared[48 << 10];
static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }
static void atomicAdd(float* p, float v) { *p += v; }
static void atomicMin(int* p, int v) { if (v < *p) *p = v; }
static void atomicMax(int* p, int v) { if (v > *p) *p = v; }
static float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static float half_to_float(unsigned short h) {
  const int e = h >> 10 & 31, m = h & 1023;
  const float v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf(1024 + m, e - 25) : ldexpf(m, -24);
  return h >> 15 ? -v : v;
}
static unsigned short float_to_half(float f) {
  const unsigned short sign = signbit(f) ? 0x8000 : 0;
  if (f != f) return sign | 0x7e00;
  f = fabsf(f);
  if (f >= 65520) return sign | 0x7c00;
  int e;
  frexpf(f, &e);                                     // f = m*2^e, m in [.5,1)
  const float step = ldexpf(1, e - 11 < -24 ? -24 : e - 11);
  const float r = nearbyintf(f/step)*step;
  if (r < ldexpf(1, -14)) return sign | (int)ldexpf(r, 24);
  frexpf(r, &e);
  return sign | (e + 14) << 10 | ((int)ldexpf(r, 11 - e) - 1024);
}
static ucontext_t scheduler, *running;
static bool waiting;
static void __syncthreads() { waiting = true; swapcontext(running, &scheduler); }
static void (*body)(void**);
static void** arguments;
static void enter() { body(arguments); }
template<class... A, size_t... I> static void unpack(void (*k)(A...), void** a, std::index_sequence<I...>) { k(*(A*)a[I]...); }
template<class... A> static void call(void (*k)(A...), void** a) { unpack(k, a, std::index_sequence_for<A...>()); }
static const char* run_blocks(const unsigned* g, const unsigned* b, unsigned long long shared, void** args, int falling) {
  static std::vector<char> stacks(1024 << 15);
  gridDim = {g[0], g[1], g[2]}, blockDim = {b[0], b[1], b[2]}, arguments = args;
  const int count = b[0]*b[1]*b[2];
  std::vector<ucontext_t> threads(count);
  for (unsigned z = 0; z < g[2]; z++) for (unsigned y = 0; y < g[1]; y++) for (unsigned x = 0; x < g[0]; x++) {
    blockIdx = {x, y, z};
    memset(emulated_shared, 255, sizeof(emulated_shared));
    std::vector<char> over(count, 0);
    for (int t = 0; t < count; t++) {
      getcontext(&threads[t]);
      threads[t].uc_stack.ss_sp = stacks.data() + ((size_t)t << 15), threads[t].uc_stack.ss_size = 1 << 15, threads[t].uc_link = &scheduler;
      makecontext(&threads[t], enter, 0);
    }
    for (int left = count; left;) {
      int arrived = 0, before = left;
      for (int i = 0; i < count; i++) {
        const int t = falling ? count - 1 - i : i;
        if (over[t]) continue;
        threadIdx = {t % b[0], t/b[0] % b[1], t/b[0]/b[1]}, waiting = false, running = &threads[t];
        swapcontext(&scheduler, running);
        if (waiting) arrived++; else over[t] = 1, left--;
      }
      if (arrived && left < before) return "some threads left before a barrier";
    }
    for (size_t i = shared; i < sizeof(emulated_shared); i++) if (emulated_shared[i] != -1) return "shared memory that was not asked for is written";
  }
  return nullptr;
}
'''
RUN = r'''
extern "C" const char* run(const unsigned* g, const unsigned* b, unsigned long long shared, void** args, int falling) {
  body = [](void** a) { call(&NAME, a); };
  return run_blocks(g, b, shared, args, falling);
}
'''
GAP = 64 # elements of NaN on either side of a tensor, a multiple of 16 bytes

class Fenced(torch.utils._python_dispatch.TorchDispatchMode):
    "New tensors lie between NaNs"
    def __init__(self): super().__init__(); self.all = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        names = 'aten::empty', 'aten::new_empty', 'aten::new_zeros', 'aten::empty_like', 'aten::zeros_like'
        return self.fence(out, 'empty' in func._schema.name) if func._schema.name in names and out.is_floating_point() and out.is_contiguous() else out
    def fence(self, t, unknown=False):
        base = torch.full((t.numel() + 2*GAP,), float('nan'), dtype=t.dtype)
        view = base[GAP:GAP + t.numel()].as_strided(t.shape, t.stride(), GAP)
        if not unknown: view.copy_(t)
        self.all.append((base, t.numel()))
        return view
    def check(self):
        for base, n in self.all:
            assert base[:GAP].isnan().all() and base[GAP + n:].isnan().all(), 'written outside a tensor'

@pytest.fixture(scope='session')
def built(tmp_path_factory):
    return tmp_path_factory.mktemp('emulated')

@pytest.fixture
def emulated(built, monkeypatch):
    "Launchers that run on the CPU; the value counts launches by kernel"
    if not shutil.which('g++'): pytest.skip('g++ not found')
    seen, libraries = {}, {}
    class Emulated:
        def __init__(self, source): self.source = source
        def library(self, name):
            if name in libraries: return libraries[name]
            text = HEADER + self.source + RUN.replace('NAME', name)
            path = built/f'{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.so'
            if not path.exists():
                path.with_suffix('.cpp').write_text(text)
                subprocess.run(['g++', '-std=c++17', '-O1', '-w', '-ffp-contract=off',
                                '-fsanitize=undefined,float-cast-overflow',
                                '-fsanitize-undefined-trap-on-error', '-shared', '-fPIC', '-o', path,
                                path.with_suffix('.cpp')], check=True)
            lib = ctypes.CDLL(str(path))
            lib.run.restype = ctypes.c_char_p
            return libraries.setdefault(name, lib)
        def launch(self, name, grid, block, args, device, shared=0):
            grid, block = ((*map(int, o), 1, 1)[:3] for o in (grid, block))
            nvrtc._check_launch(name, grid, block, shared)
            if 0 in grid: return
            seen[name] = seen.get(name, 0) + 1
            address, alive = nvrtc.pack_args(args, device)
            written = [a for a in args if torch.is_tensor(a)]
            before, results = [t.clone() for t in written], []
            for falling in (1, 0):
                for t, b in zip(written, before): t.copy_(b)
                why = self.library(name).run((ctypes.c_uint*3)(*grid), (ctypes.c_uint*3)(*block),
                                             ctypes.c_ulonglong(shared), ctypes.c_void_p(address), falling)
                assert not why, f'{name}: {why.decode()}'
                results.append([t.clone() for t in written])
            for a, b in zip(*results): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
    monkeypatch.setattr(ck, '_kernels', lambda name, dtype: Emulated(cuda_source(name, dtype)))
    return seen

def fenced(f, *args):
    "Call a launcher with all tensors between NaNs"
    with Fenced() as mode:
        args = [[mode.fence(o) for o in a] if isinstance(a, list) and a and torch.is_tensor(a[0])
                else mode.fence(a) if torch.is_tensor(a) else a for a in args]
        out = f(*args)
    mode.check()
    return out

def close(found, wanted, dtype=torch.float32, scale=1.):
    "Equal to 1e-5 (of the largest value) in float32"
    tol = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]*scale
    largest = wanted.detach().nan_to_num().abs().max().item() if wanted.numel() else 0
    torch.testing.assert_close(found.double(), wanted.double(), rtol=tol, atol=tol*max(1, largest),
                               equal_nan=True)

def leaf(*shape): return torch.randn(*shape).requires_grad_()

CORRELATIONS = [ # B, C, H, W; kernel_size, max_displacement, stride, padding, dilation, dilation_patch
    ((1, 5, 7, 37), (1, 4, 1, 0, 1, 1)), ((2, 19, 5, 8), (1, 4, 1, 0, 1, 1)),
                ((1, 9, 6, 33), (1, 3, 1, 0, 1, 2)), ((1, 3, 9, 5), (1, 10, 1, 0, 1, 2)),
    ((1, 2, 3, 40), (1, 2, 1, 0, 1, 5)), ((1, 4, 1, 1), (1, 1, 1, 0, 1, 1)),
                ((2, 1, 3, 2), (1, 0, 1, 0, 3, 1)), ((1, 3, 4, 6), (1, 1, 1, 0, 1, 2000)),
    ((2, 3, 5, 7), (3, 1, 2, 2, 2, 1)), ((1, 3, 5, 7), (2, 2, 2, 1, 1, 2)),
                ((1, 2, 4, 4), (1, 2, 3, 1, 1, 1)), ((0, 3, 4, 4), (1, 4, 1, 0, 1, 1)),
                ((1, 40, 2, 3), (1, 1, 1, 0, 1, 9)), ((1, 2, 3, 9), (1, 6, 1, 0, 1, 1))]

def check_correlation(shape, numbers):
    torch.manual_seed(0)
    f1, f2 = leaf(*shape), leaf(*shape)
    wanted = correlation_ref(f1, f2, *numbers)
    close(fenced(ck.correlation_forward, f1.detach(), f2.detach(), *numbers), wanted)
    grad = torch.randn_like(wanted)
    for found, true in zip(fenced(ck.correlation_backward, grad, f1.detach(), f2.detach(), *numbers),
                           torch.autograd.grad(wanted, (f1, f2), grad)):
        close(found, true)

@pytest.mark.parametrize('enough', [1, 256])
@pytest.mark.parametrize('shape,numbers', CORRELATIONS)
def test_correlation(emulated, monkeypatch, shape, numbers, enough):
    "Few large blocks and many small ones"
    monkeypatch.setattr(ck, '_ENOUGH', enough)
    check_correlation(shape, numbers)

@pytest.mark.parametrize('dtype', list(CUDA_TYPES))
@pytest.mark.parametrize('numbers', [(1, 4, 1, 0, 1, 1), (3, 1, 1, 1, 1, 1)])
def test_correlation_types(emulated, dtype, numbers):
    torch.manual_seed(1)
    f1, f2 = (torch.randn(1, 3, 5, 12).to(dtype) for _ in range(2))
    wide = f1.float().requires_grad_(), f2.float().requires_grad_()
    wanted = correlation_ref(*wide, *numbers)
    found = fenced(ck.correlation_forward, f1, f2, *numbers)
    assert found.dtype == dtype
    close(found, wanted, dtype)
    grad = torch.randn_like(wanted).to(dtype)
    for a, b in zip(fenced(ck.correlation_backward, grad, f1, f2, *numbers),
                    torch.autograd.grad(wanted, wide, grad.float())):
        close(a, b, dtype)

def flows(b, h, w, far=False):
    "Coordinates near the identity; with `far` some at home, some nowhere"
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    coords = torch.stack([x, y]).float() + torch.randn(b, 2, h, w)*2
    if far and coords.numel():
        coords.view(-1)[::3] += 1000.
        coords.view(-1)[::7] = -1e30
        coords.view(-1)[0] = 3e38
    return coords

LOOKUPS = [(1, 5, 7, 9, 4, 2), (2, 3, 5, 41, 3, 4), (1, 4, 1, 1, 2, 1), (1, 6, 8, 8, 3, 0),
           (1, 75, 5, 6, 1, 1), (1, 9, 3, 4, 1, 6), (1, 2, 16, 12, 9, 1)]

def features(b, c, h, w, levels, dtype=torch.float32):
    f1, f2s = torch.randn(b, c, h, w).to(dtype), [torch.randn(b, c, h, w).to(dtype)]
    for _ in range(levels - 1): f2s.append(F.avg_pool2d(f2s[-1], [min(s, 2) for s in f2s[-1].shape[-2:]]))
    return f1, f2s

def check_lookup(b, c, h, w, levels, radius, far):
    torch.manual_seed(0)
    pyramid = [t.detach().requires_grad_()
               for t in corr_pyramid(*[torch.randn(b, c, h, w) for _ in range(2)], levels)]
    coords = flows(b, h, w, far)
    wanted = corr_lookup(pyramid, coords, radius)
    close(fenced(ck.lookup_forward, [p.detach() for p in pyramid], coords, radius), wanted)
    grad = torch.randn_like(wanted)
    for a, t in zip(fenced(ck.lookup_backward, grad, coords, radius, [p.shape for p in pyramid]),
                    torch.autograd.grad(wanted, pyramid, grad)):
        close(a, t)

@pytest.mark.parametrize('far', [False, True])
@pytest.mark.parametrize('b,c,h,w,levels,radius', LOOKUPS)
def test_lookup(emulated, b, c, h, w, levels, radius, far): check_lookup(b, c, h, w, levels, radius, far)

def from_volume(f1, f2s, coords, radius):
    "The lookup without a volume, with one"
    q = f1.flatten(2).transpose(1, 2)/f1.shape[1]**.5
    return corr_lookup([(q @ t.flatten(2)).unflatten(2, t.shape[-2:]) for t in f2s], coords, radius)

def check_fly(b, c, h, w, levels, radius, far, last):
    torch.manual_seed(0)
    f1, f2s = features(b, c, h, w, levels)
    if last: f2s = [t.contiguous(memory_format=torch.channels_last) for t in f2s]
    coords = flows(b, h, w, far)
    leaves = [t.clone().requires_grad_() for t in (f1, *f2s)]
    wanted = from_volume(leaves[0], leaves[1:], coords, radius)
    close(fenced(ck.fly_forward, f1, f2s, coords, radius), wanted)
    grad = torch.randn_like(wanted)
    true = torch.autograd.grad(wanted, leaves, grad)
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try: g1, g2s = fenced(ck.fly_backward, grad, f1, f2s, coords, radius)
        finally: torch.use_deterministic_algorithms(False)
        for a, t in zip((g1, *g2s), true): close(a, t, scale=3)

@pytest.mark.parametrize('far', [False, True])
@pytest.mark.parametrize('b,c,h,w,levels,radius', LOOKUPS + [(2, 40, 5, 6, 2, 1)])
@pytest.mark.parametrize('last', [False, True])
def test_fly(emulated, b, c, h, w, levels, radius, far,
             last): check_fly(b, c, h, w, levels, radius, far, last)

@pytest.mark.parametrize('last', [False, True])
def test_fly_torn(emulated, last):
    "Windows that lie too far apart for one box, forward and back"
    torch.manual_seed(0)
    f1, f2s = torch.randn(1, 5, 8, 8), [torch.randn(1, 5, 60, 60)]
    if last: f2s = [t.contiguous(memory_format=torch.channels_last) for t in f2s]
    coords = torch.rand(1, 2, 8, 8)*60
    leaves = [t.clone().requires_grad_() for t in (f1, *f2s)]
    wanted = from_volume(leaves[0], leaves[1:], coords, 2)
    close(fenced(ck.fly_forward, f1, f2s, coords, 2), wanted)
    grad = torch.randn_like(wanted)
    g1, g2s = fenced(ck.fly_backward, grad, f1, f2s, coords, 2)
    for a, t in zip((g1, *g2s), torch.autograd.grad(wanted, leaves, grad)): close(a, t, scale=3)

@pytest.mark.parametrize('dtype', list(CUDA_TYPES))
def test_lookup_types(emulated, dtype):
    torch.manual_seed(1)
    f1, f2s = features(1, 11, 5, 6, 2, dtype)
    coords = flows(1, 5, 6)
    wanted = from_volume(f1.float(), [t.float() for t in f2s], coords, 2)
    found = fenced(ck.fly_forward, f1, f2s, coords, 2)
    assert found.dtype == dtype
    close(found, wanted, dtype)
    pyramid = [t.to(dtype) for t in corr_pyramid(f1.float(), f2s[0].float(), 2)]
    close(fenced(ck.lookup_forward, pyramid, coords, 2), corr_lookup([p.float() for p in pyramid], coords, 2),
          dtype)
    leaves = [p.float().requires_grad_() for p in pyramid]
    grad = torch.randn_like(wanted).to(dtype)
    true = torch.autograd.grad(corr_lookup(leaves, coords, 2), leaves, grad.float())
    for a, t in zip(fenced(ck.lookup_backward, grad, coords, 2, [p.shape for p in pyramid]), true):
        close(a, t, dtype, 2)
    leaves = [t.float().requires_grad_() for t in (f1, *f2s)]
    true = torch.autograd.grad(from_volume(leaves[0], leaves[1:], coords, 2), leaves, grad.float())
    g1, g2s = fenced(ck.fly_backward, grad, f1, f2s, coords, 2)
    for a, t in zip((g1, *g2s), true): close(a, t, dtype, 2)

def test_lookup_lost(emulated):
    "A NaN stays a NaN where it is, and writes nothing"
    f1, f2s = features(1, 3, 4, 4, 2)
    coords = flows(1, 4, 4)
    coords[0, 0, 1, 2] = float('nan')
    wanted = from_volume(f1, f2s, coords, 1)
    assert wanted.isnan().any()
    close(fenced(ck.fly_forward, f1, f2s, coords, 1), wanted)
    close(fenced(ck.lookup_forward, corr_pyramid(f1, f2s[0], 2), coords, 1),
          corr_lookup(corr_pyramid(f1, f2s[0], 2), coords, 1))
    for g in fenced(ck.lookup_backward, torch.ones_like(wanted), coords, 1, [(1, 16, 4, 4), (1, 16, 2, 2)]):
        assert g[0, 6].eq(0).all() and g.isfinite().all()

def check_upsample(b, h, w, factor, types):
    torch.manual_seed(0)
    flow, mask = torch.randn(b, 2, h, w).to(types[0]), torch.randn(b, 9*factor**2, h, w).to(types[1])*3
    leaves = flow.float().requires_grad_(), mask.float().requires_grad_()
    wanted = convex_upsample(*leaves, factor) if b else leaves[0].new_zeros(0, 2, h*factor, w*factor)
    found = fenced(ck.upsample_forward, flow, mask, factor)
    assert found.dtype == torch.promote_types(*types)
    close(found, wanted, found.dtype, factor)
    if not b: return
    grad = torch.randn_like(wanted).to(found.dtype)
    gflow, gmask = fenced(ck.upsample_backward, grad, flow, mask, factor)
    assert (gflow.dtype, gmask.dtype) == types
    for a, t in zip((gflow, gmask), torch.autograd.grad(wanted, leaves, grad.float())):
        close(a, t, a.dtype, 10*factor)

@pytest.mark.parametrize('b,h,w,factor',
                         [(1, 3, 5, 8), (2, 2, 37, 3), (1, 1, 1, 4), (0, 3, 3, 2), (1, 4, 33, 1),
                          (1, 2, 2, 11)])
@pytest.mark.parametrize('types',
                         [(torch.float32, torch.float32), (torch.float32, torch.bfloat16),
                          (torch.float16, torch.float16), (torch.bfloat16, torch.float32)])
def test_upsample(emulated, b, h, w, factor, types): check_upsample(b, h, w, factor, types)

def check_warp(shape, types, use_mask):
    torch.manual_seed(0)
    x, flow = torch.randn(shape).to(types[0]), (torch.randn(shape[0], 2, *shape[2:])*2).to(types[1])
    leaves = x.float().requires_grad_(), flow.float().requires_grad_()
    wanted = warp(*leaves, use_mask=use_mask)
    found = fenced(ck.warp_forward, x, flow, use_mask)
    assert found.dtype == types[0]
    close(found, wanted, types[0])
    grad = torch.randn_like(wanted).to(types[0])
    gx, gflow = fenced(ck.warp_backward, grad, x, flow, use_mask)
    assert (gx.dtype, gflow.dtype) == types
    for a, t in zip((gx, gflow), torch.autograd.grad(wanted, leaves, grad.float())): close(a, t, a.dtype, 5)

@pytest.mark.parametrize('shape',
                         [(2, 3, 5, 37), (1, 11, 6, 4), (1, 2, 1, 1), (1, 2, 1, 9), (0, 3, 4, 4),
                          (1, 1, 7, 1)])
@pytest.mark.parametrize('types',
                         [(torch.float32, torch.float32), (torch.float16, torch.float32),
                          (torch.bfloat16, torch.bfloat16)])
@pytest.mark.parametrize('use_mask', [False, True])
def test_warp(emulated, shape, types, use_mask): check_warp(shape, types, use_mask)

def test_warp_border(emulated):
    "Whole pixels, the border itself, and flows that point nowhere"
    x, flow = torch.rand(1, 2, 4, 5) + 1, torch.zeros(1, 2, 4, 5)
    flow[0, 0, 0], flow[0, 1, 1] = torch.tensor([4., 3, 2, 1, 0]), 2.
    flow[0, 0, 2, :4] = torch.tensor([float('nan'), float('inf'), -1e30, 3e38])
    found = fenced(ck.warp_forward, x, flow, True)
    close(found[..., 0, :], x[..., 0, 4:].expand(1, 2, 5))
    close(found[..., 1, :], x[..., 3, :])
    assert found[..., 2, :4].eq(0).all()
    close(found[..., 3, :], x[..., 3, :])
    for g in fenced(ck.warp_backward, torch.ones_like(x), x, flow, True): assert g.isfinite().all()

drawn = settings(max_examples=10, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])
side = st.integers(1, 12)

@drawn
@given(shape=st.tuples(st.integers(0, 2), st.integers(1, 20), side, st.integers(1, 40)), m=st.integers(0, 5),
       dp=st.integers(1, 4), other=st.sampled_from([(1, 1, 0, 1), (2, 1, 1, 2), (3, 2, 2, 1)]))
def test_correlation_drawn(emulated, shape, m, dp, other):
    k, stride, padding, dilation = other
    assume(min(shape[2:]) + 2*padding > (k - 1)*dilation)
    check_correlation(shape, (k, m, stride, padding, dilation, dp))

@drawn
@given(b=st.integers(1, 2), c=st.integers(1, 20), h=side, w=side, levels=st.integers(1, 4),
       radius=st.integers(0, 5), far=st.booleans(), last=st.booleans())
def test_lookup_drawn(emulated, b, c, h, w, levels, radius, far, last):
    check_lookup(b, c, h, w, levels, radius, far)
    check_fly(b, c, h, w, levels, radius, far, last)

@drawn
@given(b=st.integers(1, 2), c=st.integers(1, 20), h=side, w=st.integers(1, 40), factor=st.integers(1, 9),
       use_mask=st.booleans())
def test_dense_drawn(emulated, b, c, h, w, factor, use_mask):
    check_upsample(b, h, w, factor, (torch.float32, torch.float32))
    check_warp((b, c, h, w), (torch.float32, torch.float32), use_mask)

def test_deterministic(emulated):
    "What has no fixed order says so, as torch does"
    x, flow = torch.rand(1, 2, 4, 5), torch.zeros(1, 2, 4, 5)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match='deterministic'): ck.warp_backward(x, x, flow, True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match='deterministic'): ck.warp_backward(x, x, flow, True)
    finally: torch.use_deterministic_algorithms(False)

def test_empty(emulated):
    "A batch of none launches nothing and gives tensors of the right shape"
    f1, f2s = torch.zeros(0, 3, 4, 4), [torch.zeros(0, 3, 4, 4), torch.zeros(0, 3, 2, 2)]
    coords, out, pyramid = torch.zeros(0, 2, 4, 4), torch.zeros(0, 18, 4, 4), [torch.zeros(0, 16, 4, 4),
        torch.zeros(0, 16, 2, 2)]
    assert ck.lookup_forward(pyramid, coords, 1).shape == ck.fly_forward(f1, f2s, coords, 1).shape == out.shape
    assert [g.shape for g in ck.lookup_backward(out, coords, 1,
                                                [p.shape for p in pyramid])] == [p.shape for p in pyramid]
    g1, g2s = ck.fly_backward(out, f1, f2s, coords, 1)
    assert [g.shape for g in (g1, *g2s)] == [t.shape for t in (f1, *f2s)]
    gflow, gmask = ck.upsample_backward(torch.zeros(0, 2, 8, 8), coords, torch.zeros(0, 36, 4, 4), 2)
    assert gflow.shape == coords.shape and gmask.shape == (0, 36, 4, 4)
    assert not emulated

def test_limits(emulated):
    "What does not fit is refused in one line"
    f1, f2s = features(1, 2, 4, 4, 1)
    with pytest.raises(FlowbookError, match='lookup radius: found 60'):
        ck.fly_forward(f1, f2s, flows(1, 4, 4), 60)
    with pytest.raises(FlowbookError, match='factor: found 200'):
        ck.upsample_forward(torch.zeros(1, 2, 1, 1), torch.zeros(1, 9*200**2, 1, 1), 200)
    with pytest.raises(FlowbookError, match='strided'):
        ck.warp_forward(torch.rand(1, 2, 4, 4).transpose(2, 3), torch.zeros(1, 2, 4, 4), True)
    ck.fly_forward(*features(1, 2, 3, 3, 1), flows(1, 3, 3), 11)

needs_nvrtc = pytest.mark.skipif(nvrtc.nvrtc_missing() is not None, reason=str(nvrtc.nvrtc_missing()))

@needs_nvrtc
@pytest.mark.parametrize('arch,dtypes',
                         [('sm_75', [torch.float16]), ('sm_80', [torch.bfloat16]), ('sm_90', list(CUDA_TYPES)),
                          ('sm_100', [torch.float32])])
def test_compiles(arch, dtypes):
    "Every kernel compiles without a GPU, keeps its arrays in registers, and has registers for all threads of a block"
    took, most = {}, {}
    for name in list_cuda_kernels():
        for dtype in dtypes:
            source, key = cuda_source(name, dtype), f'{name}_{CUDA_TYPES[dtype]}'
            start = time.process_time()
            image, log = nvrtc._compile(source, arch, ['--ptxas-options=--verbose'])
            took[key] = time.process_time() - start
            assert image[:4] == b'\x7fELF'
            assert int(re.search(r'(\d+) bytes stack frame', log)[1]) <= 16, f'{key} {arch}: {log}'
            most[key], threads = int(re.search(r'Used (\d+) registers', log)[1]), int(re.search(rf'KERNEL\(.*, (\d+)\)', source.split('constexpr int dtype')[1])[1])
            assert (most[key] + 7)//8*8*threads <= 65536
    slowest, largest = max(took, key=took.get), max(most, key=most.get)
    print(f'{arch}: {len(took)} kernels, {sum(took.values())/len(took):.2f} s each; slowest {slowest} {took[slowest]:.2f} s; most registers {largest} {most[largest]}')
    assert took[slowest] < 1.5 # half a second on a quiet core

@needs_nvrtc
def test_two_processes(tmp_path):
    "Processes that compile the same kernel at once leave one good file"
    code = "from flowbook.ops.nvrtc import compile_cuda; from flowbook.ops.cuda_source import cuda_source; print(len(compile_cuda(cuda_source('warp'), 'sm_90')))"
    runs = [subprocess.Popen([sys.executable, '-c', code],
                             env={**os.environ, 'FLOWBOOK_CACHE': str(tmp_path)}, stdout=subprocess.PIPE,
                             text=True) for _ in range(2)]
    sizes = [int(r.communicate(timeout=200)[0]) for r in runs]
    files = list((tmp_path/'kernels').iterdir())
    assert len(set(sizes)) == 1 and len(files) == 1 and files[0].stat().st_size == sizes[0] + 32

LIBRARY = r"""
#include <string.h>
static char last[64]; static long long seen[8];
extern "C" int flowbook_has(const char* name) { return !strcmp(name, "warp_f32"); }
extern "C" int flowbook_launch(const char* name, const unsigned* g, const unsigned* b, unsigned long long shared, void* stream, void** args) {
  strcpy(last, name); seen[0] = g[0]; seen[1] = b[1]; seen[2] = shared; seen[3] = (long long)stream; seen[4] = *(long long*)args[1];
  return g[0] == 9 ? 700 : 0;
}
extern "C" long long* flowbook_seen() { return seen; }
"""

def test_prebuilt(tmp_path, monkeypatch):
    "A library built ahead of time is used instead of NVRTC, if it is made of the same sources"
    if not shutil.which('g++'): pytest.skip('g++ not found')
    source = nvrtc.cuda_extension_sources(tmp_path/'kernels'/'extension')
    text = source.read_text()
    assert text.count('"warp_bf16"') == 1 and all(f'room_{k}_{t}::{k}_{t}' in text
                                                  for k in list_cuda_kernels() for t in CUDA_TYPES.values())
    (tmp_path/'a.cpp').write_text(LIBRARY)
    path = source.with_suffix('.so')
    subprocess.run(['g++', '-shared', '-fPIC', '-o', path, tmp_path/'a.cpp'], check=True)
    monkeypatch.setenv('FLOWBOOK_CACHE', str(tmp_path))
    monkeypatch.setattr(torch.cuda, 'device', lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: SimpleNamespace(cuda_stream=77))
    nvrtc._extension.cache_clear()
    try:
        kernels, gpu = nvrtc.CudaKernels('not even a source'), torch.device('cuda', 0)
        kernels.launch('warp_f32', (5,), (32, 8), (None, 12), gpu, 64)
        seen = ctypes.CDLL(str(path)).flowbook_seen
        seen.restype = ctypes.POINTER(ctypes.c_longlong)
        assert seen()[:5] == [5, 8, 64, 77, 12]
        with pytest.raises(FlowbookError, match='error 700'):
            kernels.launch('warp_f32', (9,), (1,), (None, 12), gpu)
        assert nvrtc._load_extension('warp_f16', 0) is None
    finally: nvrtc._extension.cache_clear()

DRIVER = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#define F extern "C" int
F cuInit(unsigned) { return 0; }
F cuDeviceGet(int* d, int i) { *d = i; return 0; }
F cuDevicePrimaryCtxRetain(void** c, int d) { *c = (void*)(size_t)(100 + d); return 0; }
F cuCtxPushCurrent_v2(void* c) { printf("push %zu\n", (size_t)c); return 0; }
F cuCtxPopCurrent_v2(void** c) { printf("pop\n"); return 0; }
F cuModuleLoadData(void** m, const void* image) { printf("load %.3s\n", (const char*)image + 1); *m = (void*)7; return 0; }
F cuModuleGetFunction(void** f, void* m, const char* name) { printf("find %s in %zu\n", name, (size_t)m); *f = (void*)8; return strcmp(name, "nothing") ? 0 : 500; }
F cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** args, void** extra) {
  const long long n = *(long long*)args[1];
  printf("launch %zu: %u %u %u, %u %u %u, %u, %zu, %lld, %d\n", (size_t)f, gx, gy, gz, bx, by, bz, shared, (size_t)stream, n, !extra);
  fflush(stdout);
  for (long long i = 0; i < n; i++) (*(float**)args[0])[i] *= 2;
  return gx == 9 ? 700 : 0;
}
F cuGetProcAddress_v2(const char* name, void** p, int, unsigned long long, int* status) {
  char second[64];
  snprintf(second, sizeof(second), "%s_v2", name);
  if (!(*p = dlsym(RTLD_DEFAULT, second))) *p = dlsym(RTLD_DEFAULT, name);
  if (status) *status = !*p;
  return 0;
}
"""
DRIVEN = r"""
import ctypes, sys, torch
from types import SimpleNamespace
from flowbook.ops import nvrtc
torch.cuda.current_stream, torch.cuda.get_device_capability = lambda d=None: SimpleNamespace(cuda_stream=77), lambda d: (9, 0)
pack, source = nvrtc.pack_args, 'extern "C" __global__ void twice(float* x, long long n) {}'
nvrtc.pack_args = lambda args, device: pack(args, torch.device('cpu'))
nvrtc.compile_cuda(source, nvrtc.cuda_arch(9, 0)) # before the driver that knows so little is there
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
kernels, x = nvrtc.CudaKernels(source), torch.arange(5.)
def launch(name, *grid, **kw):
    try: kernels.launch(name, grid, (32, 8), (x, 5), torch.device('cuda', 1), **kw)
    except nvrtc.FlowbookError as e: print(e, flush=True)
launch('twice', 3, 2, shared=64); print(x.tolist(), flush=True); launch('twice', 9); launch('nothing', 1)
"""

@needs_nvrtc
def test_driver(tmp_path):
    "The real cuda-bindings, with a driver that writes down its calls"
    if not shutil.which('g++') or sys.platform != 'linux' or torch.cuda.is_available():
        pytest.skip('needs g++, Linux, and no real driver')
    (tmp_path/'driver.cpp').write_text(DRIVER)
    subprocess.run(['g++', '-shared', '-fPIC', '-Wl,-soname,libcuda.so.1', '-o', tmp_path/'driver.so',
                    tmp_path/'driver.cpp', '-ldl'], check=True)
    env = {**os.environ, 'FLOWBOOK_CACHE': str(tmp_path), 'CUDA_VISIBLE_DEVICES': ''}
    run = subprocess.run([sys.executable, '-c', DRIVEN, tmp_path/'driver.so'], env=env, capture_output=True,
                         text=True, timeout=200)
    assert run.stdout.split('\n')[:-1] == ['push 101', 'load ELF', 'find twice in 7', 'pop', 'push 101',
                                           'launch 8: 3 2 1, 32 8 1, 64, 77, 5, 1', 'pop',
                                           '[0.0, 2.0, 4.0, 6.0, 8.0]',
        'push 101', 'launch 8: 9 1 1, 32 8 1, 0, 77, 5, 1', 'pop',
                                           'CUDA kernel twice: found CUDA_ERROR_ILLEGAL_ADDRESS, expected success',
        'push 101', 'load ELF', 'find nothing in 7', 'pop',
                                           'CUDA kernel nothing: found CUDA_ERROR_NOT_FOUND, expected success'], run.stdout + run.stderr

def test_no_nvcc(tmp_path, monkeypatch):
    "Without CUDA's compiler the build says so"
    from torch.utils import cpp_extension
    monkeypatch.setattr(cpp_extension, 'CUDA_HOME', str(tmp_path))
    with pytest.raises(FlowbookError, match='nvcc: found no CUDA compiler'):
        nvrtc.build_cuda_extension(tmp_path, ('sm_90',))
    assert not list(tmp_path.iterdir())
