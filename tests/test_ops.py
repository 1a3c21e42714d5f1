"""Operators with kernels present, absent and required; hostile numbers; processes and threads; the C++ under sanitizers"""
import os, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from flowbook.core.errors import FlowbookError
from flowbook.core.grid import coords_grid
from flowbook.ops.backend import cpu_library, use_kernels
from flowbook.ops.build import build_kernels, find_compiler, kernel_source, kernel_variants
from flowbook.ops.correlation import correlation
from flowbook.ops.lookup import all_pairs, corr_lookup, corr_on_the_fly, corr_pyramid, plan_corr, pool_features
from flowbook.ops.upsample import convex_upsample
from flowbook.ops.warp import warp

root = Path(__file__).resolve().parent.parent
compiled = pytest.mark.skipif(cpu_library()[0] is None, reason='no CPU kernels: ' + cpu_library()[1])
compiler = pytest.mark.skipif(find_compiler() is None, reason='no C++ compiler')

def both_ways(f, *args, dtype=torch.float32):
    "Output of `f` and gradients of all `args`, as float64"
    args = [a.detach().to(dtype).requires_grad_() for a in args]
    out = f(*args)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out.dtype)
    return [t.double() for t in (out.detach(), *torch.autograd.grad(out, args, grad))]

def agree(f, *args, dtype=torch.float32, tol=1e-5):
    "The kernel's values and gradients equal those of PyTorch in float64, as a part of the largest"
    with use_kernels('require' if cpu_library()[0] else 'auto'): ours = both_ways(f, *args, dtype=dtype)
    with use_kernels('0'): exact = both_ways(f, *(a.to(dtype) for a in args), dtype=torch.float64)
    for a,b in zip(ours, exact):
        if b.numel():
            assert (a - b).abs().max() <= tol*max(1, b.abs().max()), (f, [tuple(x.shape) for x in args])

def draw_tensor(draw, *shape, scale=1.):
    return scale*torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))

# ---- equal to the reference, on whatever hypothesis finds ----

loosely = settings(deadline=None, max_examples=60, derandomize=True, database=None)
sizes = dict(b=st.integers(0, 2), c=st.integers(1, 37), h=st.integers(1, 19), w=st.integers(1, 37))

@compiled
@loosely
@given(data=st.data(), r=st.integers(0, 10), step=st.integers(1, 3),
       dtype=st.sampled_from([torch.float32]*3 + [torch.bfloat16, torch.float16]), **sizes)
def test_correlation(data, b, c, h, w, r, step, dtype):
    f1,f2 = (draw_tensor(data.draw, b, c, h, w) for _ in range(2))
    agree(lambda p, q: correlation(p, q, max_displacement=r, dilation_patch=step), f1, f2, dtype=dtype,
          tol=1e-5 if dtype==torch.float32 else 1e-2)

@compiled
@loosely
@given(data=st.data(), b=st.integers(0, 2), c=st.integers(1, 5), h=st.integers(5, 12), w=st.integers(5, 20),
       kernel_size=st.integers(1, 3), max_displacement=st.integers(0, 4),
       stride=st.integers(1, 3), padding=st.integers(0, 3), dilation=st.integers(1, 2),
       dilation_patch=st.integers(1, 2))
def test_correlation_with_every_argument(data, b, c, h, w, **numbers):
    f1,f2 = (draw_tensor(data.draw, b, c, h, w) for _ in range(2))
    agree(lambda p, q: correlation(p, q, **numbers), f1, f2)

@compiled
@loosely
@given(data=st.data(), levels=st.integers(1, 5), radius=st.integers(0, 5),
       far=st.sampled_from([.1, 3., 50., 1e9]), corr=st.sampled_from(['volume', 'on_the_fly']), **sizes)
def test_lookups(data, b, c, h, w, levels, radius, far, corr):
    f1,f2 = (draw_tensor(data.draw, b, c, h, w) for _ in range(2))
    coords = coords_grid(b, h, w) + draw_tensor(data.draw, b, 2, h, w, scale=far)
    agree(lambda p, q: all_pairs(p, q, levels, radius, corr=corr)(coords.to(p.dtype)), f1, f2, tol=2e-5)

@compiled
@loosely
@given(data=st.data(), far=st.sampled_from([.5, 4., 1e6]), use_mask=st.booleans(), **sizes)
def test_warp(data, b, c, h, w, far, use_mask):
    x,flow = draw_tensor(data.draw, b, c, h + 1, w + 1),draw_tensor(data.draw, b, 2, h + 1, w + 1, scale=far)
    agree(lambda p, q: warp(p, q, use_mask=use_mask), x, flow,
          tol=5e-5)   # a difference of two neighbours, times the place's rounding

@compiled
@loosely
@given(data=st.data(), b=st.integers(0, 2), h=st.integers(1, 5), w=st.integers(1, 37),
       factor=st.integers(1, 8))
def test_upsample(data, b, h, w, factor):
    agree(lambda f, m: convex_upsample(f, m, factor), draw_tensor(data.draw, b, 2, h, w),
          draw_tensor(data.draw, b, 9*factor**2, h, w, scale=8.))

def test_volume_and_fly_agree_to_1e_4():
    torch.manual_seed(0)
    f1,f2 = torch.randn(2, 1, 256, 30, 44)
    coords = coords_grid(1, 30, 44) + 5*torch.randn(1, 2, 30, 44)
    one,two = (both_ways(lambda p, q: all_pairs(p, q, corr=c)(coords), f1, f2)
               for c in ('volume', 'on_the_fly'))
    for a,b in zip(one, two): assert (a - b).abs().max() < 1e-4

# ---- hostile numbers ----

@pytest.mark.parametrize('mode', ['auto', '0'])
def test_views_give_what_copies_give(mode):
    torch.manual_seed(0)
    base,flow = torch.randn(2, 9, 21, 34),torch.randn(2, 2, 21, 34)
    for view in (base.mT.contiguous().mT, base.to(memory_format=torch.channels_last),
                 base[:1].expand(2, -1, -1, -1), base[..., ::2].repeat_interleave(2, -1),
                 torch.stack([base, base], -1)[..., 0]):
        with use_kernels(mode):
            torch.testing.assert_close(correlation(view, view, max_displacement=3),
                                       correlation(view.clone(memory_format=torch.contiguous_format),
                                                   view.contiguous(), max_displacement=3))
            torch.testing.assert_close(warp(view, flow), warp(view.contiguous(), flow))
            torch.testing.assert_close(all_pairs(view, view, 2, 2, corr='on_the_fly')(flow),
                                       all_pairs(view, view, 2, 2, corr='volume')(flow), rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('mode', ['auto', '0'])
def test_nothing_in_nothing_out(mode):
    e,f = torch.zeros(0, 4, 6, 7),torch.zeros(0, 2, 6, 7)
    with use_kernels(mode):
        assert correlation(e, e).shape == (0, 3, 3, 6, 7) and warp(e, f).shape == e.shape
        assert convex_upsample(f, torch.zeros(0, 36, 6, 7), 2).shape == (0, 2, 12, 14)
        assert all_pairs(e, e, 2, 1, corr='volume')(f).shape == all_pairs(e, e, 2, 1, corr='on_the_fly')(f).shape == (0, 18, 6, 7)

@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf'), 3e38])
def test_numbers_that_are_none(bad):
    "No crash, and what is lost stays where it was"
    torch.manual_seed(0)
    f1,f2,flow = torch.randn(1, 8, 12, 20),torch.randn(1, 8, 12, 20),torch.randn(1, 2, 12, 20)
    flow[0, :, 3, 4] = bad
    coords = coords_grid(1, 12, 20) + flow
    for corr in ('volume', 'on_the_fly'):
        found = all_pairs(f1, f2, 2, 2, corr=corr)(coords)[0]
        found[:, 3, 4] = 0
        assert found.isfinite().all()
    out = warp(f1, flow)[0]
    out[:, 3, 4] = 0
    assert out.isfinite().all()
    f2[0, :, 5, 6] = bad
    finite = correlation(f1, f2, max_displacement=1)[0].isfinite().flatten(0, 1).all(0)
    assert finite[:4].all() and finite[7:].all() and finite[:, :5].all() and finite[:, 8:].all()

def test_what_cannot_meet_is_named():
    f = torch.randn(1, 4, 8, 8)
    for call,text in ((lambda:
        correlation(f, f[..., 1:]), 'f2 (1, 4, 8, 7)'),
                      (lambda: correlation(f, f.half()), 'the same float type'),
                      (lambda: correlation(f, f.to('meta')), 'the same device'),
                      (lambda: correlation(f.long(), f.long()), 'float type'),
                      (lambda: warp(f, f), 'flow (1, 4, 8, 8)'),
                      (lambda: warp(f, f[:, :2].to('meta')), 'the same device'),
                      (lambda: corr_lookup(corr_pyramid(f, f, 2), f[:, :2, 1:]), 'coords'),
                      (lambda: corr_on_the_fly(f, pool_features(f[:, :3], 2), f[:, :2]),
                       'batch of 1, 3 channels'),
                      (lambda: convex_upsample(f[:, :2], f), 'mask'),
                      (lambda: plan_corr(f, corr='none'), "corr: found 'none'")):
        with pytest.raises(FlowbookError) as e: call()
        assert text in str(e.value) and '\n' not in str(e.value)

# ---- which kernel serves ----

def python(code, tmp=None, **env):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60, cwd=tmp,
                          env={k: v for k,v in (os.environ | env).items() if v is not None})

look = '''
import torch
from flowbook.ops.backend import kernel_for, kernel_note
from flowbook.ops.correlation import correlation
f = torch.ones(1, 2, 5, 5)
print(bool(kernel_for('correlation_forward', f)), correlation(f, f)[0, 1, 1, 2, 2].item(), kernel_note())
'''

@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    "The package as an install without a compiler leaves it"
    tmp = tmp_path_factory.mktemp('bare')
    shutil.copytree(root/'flowbook', tmp/'flowbook',
                    ignore=shutil.ignore_patterns('kernels-*', '__pycache__'))
    (tmp/'cache').mkdir()
    return dict(tmp=tmp, PYTHONPATH=str(tmp), FLOWBOOK_CACHE=str(tmp/'cache'))

def test_switched_off():
    res = python(look, FLOWBOOK_KERNELS='0')
    assert res.stdout.startswith('False 2.0 switched off'), res

def test_absent(bare):
    res = python(look, **bare)
    assert res.stdout.startswith('False 2.0 none was built; flowbook build-ops builds them'), res
    res = python(look, **bare, FLOWBOOK_KERNELS='require')
    assert 'KernelError: correlation_forward on cpu: no kernel: none was built' in res.stderr
    res = python('import sys; sys.argv = ["flowbook", "doctor"]; from flowbook.cli.main import main; main()',
                 **bare)
    assert res.returncode == 0 and 'flowbook build-ops compiles the CPU kernels' in res.stdout and 'PyTorch' in res.stdout, res

@compiled
def test_required():
    res = python(look, FLOWBOOK_KERNELS='require')
    assert res.stdout.startswith('True 2.0 compiled for'), res

@compiler
def test_built_later_by_two_at_once_then_damaged(bare):
    build = 'from flowbook.ops.build import *; build_kernels(cache_folder(), variants=["base"])'
    env = os.environ | {k: v for k,v in bare.items() if k != 'tmp'}
    both = [subprocess.Popen([sys.executable, '-c', build], cwd=bare['tmp'], env=env) for _ in range(2)]
    assert [p.wait(200) for p in both] == [0, 0]
    path, = (bare['tmp']/'cache'/'kernels').iterdir()
    res = python(look, **bare)
    assert res.stdout.startswith('True 2.0 compiled for base'), res
    path.write_bytes(path.read_bytes()[:-5000])
    res = python(look, **bare)
    assert res.stdout.startswith('False 2.0') and 'is damaged' in res.stdout, res
    path.unlink()

@compiler
def test_unwritable_cache_folder(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(FlowbookError, match='expected a folder that can be written'):
        build_kernels(tmp_path/'file'/'cache', variants=['base'])

def test_nothing_loads_at_import():
    res = python('import flowbook.ops.correlation, flowbook.ops.lookup, flowbook.ops.warp, flowbook.ops.upsample\nfrom flowbook.ops.backend import cpu_library, _gpu\nprint(cpu_library.cache_info().currsize, _gpu.cache_info().currsize)')
    assert res.stdout.split() == ['0', '0'], res

# ---- processes, threads, compilers ----

@compiled
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_after_a_fork():
    code = '''
import os, torch
from flowbook.ops.correlation import correlation
torch.set_num_threads(2)
f = torch.randn(1, 32, 112, 128)
out = correlation(f, f, max_displacement=4)
pid = os.fork()
if pid == 0: os._exit(0 if (correlation(f, f, max_displacement=4).numpy() == out.numpy()).all() else 3)   # numpy: PyTorch's own threads do not survive a fork
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
'''
    assert python(code).stdout.strip() == '0'

@compiled
def test_any_number_of_threads_gives_the_same_bits():
    torch.manual_seed(0)
    f1,f2 = torch.randn(2, 1, 33, 50, 70)
    coords,before = coords_grid(1, 50, 70) + 3*torch.randn(1, 2, 50, 70),torch.get_num_threads()
    def everything(n):
        torch.set_num_threads(n)
        calls = [lambda p, q: correlation(p, q, max_displacement=4), lambda p, q: warp(p, q[:, :2]),
                 *(lambda p, q, c=c: all_pairs(p, q, corr=c)(coords) for c in ('volume', 'on_the_fly'))]
        return [t for f in calls for t in both_ways(f, f1, f2)]
    try:
        for a,b in zip(everything(1), everything(3)):
            assert (a - b).abs().max() <= 2e-6*b.abs().max()   # PyTorch's own sums may differ, too
    finally: torch.set_num_threads(before)

@pytest.mark.parametrize('mode', ['auto', '0'])
def test_compiles_as_one_graph_and_under_autocast(mode):
    torch.manual_seed(0)
    f1,f2,mask = torch.randn(1, 16, 9, 14),torch.randn(1, 16, 9, 14),torch.randn(1, 576, 9, 14)
    def f(a, b, m):
        flow = correlation(a, b, max_displacement=2).flatten(1, 2)[:, :2]
        flow = flow + all_pairs(a, b, 2, 2, corr='on_the_fly')(flow)[:, :2] + all_pairs(a, b, 2, 2, corr='volume')(flow)[:, 2:4]
        return convex_upsample(flow.float(), m).mean() + warp(a, flow).mean()
    with use_kernels(mode):
        plain,fast = (both_ways(g, f1, f2, mask)
                      for g in (f, torch.compile(f, fullgraph=True, backend='aot_eager')))
        for a,b in zip(plain, fast): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        with torch.autocast('cpu', torch.bfloat16): assert f(f1, f2, mask).isfinite()

# ---- the C++ itself ----

harness = r'''
#include <cstdio>
#include <random>
static std::mt19937 rng(0);
static int pick(int lo, int hi) { return lo + rng()%(hi - lo + 1); }
template<class T> struct Buf : std::vector<T> { Buf(i64 n, float scale = 1) { this->reserve(n); for (i64 i = 0; i < n; i++) { T t; put(&t, scale*((int)(rng()%2001) - 1000)/500.f); this->push_back(t); } } };
static Buf<float> points(i64 b, i64 h, i64 w) {
  Buf<float> c(2*b*h*w, pick(1, 40));
  for (auto &x : c) if (rng()%50 == 0) { const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, -1.f, 0.f}; x = odd[rng()%7]; }
  return c;
}
template<class T> static void one(int type) {
  const i64 b = pick(1, 2), c = pick(1, 40), h = pick(1, 20), w = pick(1, 40), s[] = {b, c, h, w}, n = b*c*h*w; const int t = pick(1, 3), r = pick(0, 10), step = pick(1, 3), D = 2*r + 1;
  Buf<T> f1(n), f2(n), g1(n), g2(n), out(b*D*D*h*w);
  flowbook_correlation(f1.data(), f2.data(), out.data(), s, r, step, type, t);
  flowbook_correlation_backward(out.data(), f1.data(), f2.data(), g1.data(), g2.data(), s, r, step, type, t);
  Buf<float> flow = points(b, h, w);
  flowbook_warp(f1.data(), flow.data(), g1.data(), s, pick(0, 1), type, t);
  const int R = pick(0, 5), L = pick(1, 5), f = pick(1, 8); std::vector<i64> sizes; std::vector<Buf<T>> maps, features; std::vector<void *> pm, pf;
  for (i64 l = 0, y = h, x = w; l < L; l++, y = std::max<i64>(1, y/2), x = std::max<i64>(1, x/2)) sizes.push_back(y), sizes.push_back(x), maps.emplace_back(b*h*w*y*x), features.emplace_back(b*c*y*x);
  for (auto &m : maps) pm.push_back(m.data()); for (auto &m : features) pf.push_back(m.data());
  Buf<T> seen(b*L*(2*R + 1)*(2*R + 1)*h*w), mask(b*9*f*f*h*w, 10), gmask(b*9*f*f*h*w);
  flowbook_lookup(pm.data(), flow.data(), seen.data(), s, sizes.data(), R, L, type, t);
  flowbook_lookup_backward(seen.data(), flow.data(), pm.data(), s, sizes.data(), R, L, type, t);
  if (type < 2) flowbook_fly(f1.data(), pf.data(), flow.data(), seen.data(), s, sizes.data(), R, L, type, t);
  Buf<float> coarse(2*b*h*w), fine(2*b*f*h*f*w), near(18*b*h*w); const i64 u[] = {b, h, w};
  flowbook_upsample(coarse.data(), mask.data(), fine.data(), u, f, type, t);
  flowbook_upsample_backward(fine.data(), coarse.data(), mask.data(), gmask.data(), near.data(), u, f, type, t);
}
static void floats() {
  const i64 b = pick(1, 2), c = pick(1, 70), h = pick(1, 9), w = pick(1, 20), s[] = {b, c, h, w}, n = b*c*h*w; const int R = pick(0, 4), t = pick(1, 3);
  Buf<float> flow = points(b, h, w), x(n), g(n), gx(n), gf(2*b*h*w), y(b*c*(h/2 + 1)*(w/2 + 1)), gy(y.size()), grad(2*b*(2*R + 1)*(2*R + 1)*h*w);
  flowbook_warp_backward(g.data(), x.data(), flow.data(), gx.data(), gf.data(), s, pick(0, 1), t);
  const i64 sizes[] = {h, w, h/2 + 1, w/2 + 1}; const float *maps[] = {x.data(), y.data()}; float *to[] = {gx.data(), gy.data()};
  Buf<float> g1(n);
  flowbook_fly_backward(grad.data(), x.data(), maps, flow.data(), g1.data(), to, s, sizes, R, 2, t);
}
int main() { for (int i = 0; i < 60; i++) { one<float>(0); one<bf16>(1); if (flowbook_has_fp16()) one<fp16>(2); floats(); } puts("clean"); }
'''

@compiler
def test_sanitizers_find_nothing(tmp_path):
    "With the best instructions here; `tools/check.py --isa` tries others"
    from flowbook.ops.backend import cpu_variants
    flags = kernel_variants()[cpu_variants()[0]].split()
    (tmp_path/'main.cpp').write_text(kernel_source() + harness)
    command = [find_compiler(), '-O1', '-g', '-std=c++17', '-fsanitize=address,undefined',
               '-fno-sanitize-recover=all', '-pthread', *flags, str(tmp_path/'main.cpp'), '-o',
               str(tmp_path/'main')]
    res = subprocess.run(command, capture_output=True, text=True)
    if 'sanitize' in res.stderr or 'asan' in res.stderr:
        pytest.skip(f'no sanitizers: {res.stderr.splitlines()[0]}')
    assert res.returncode == 0, res.stderr
    res = subprocess.run([str(tmp_path/'main')], capture_output=True, text=True, timeout=200,
                         env=os.environ | dict(ASAN_OPTIONS='detect_leaks=0'))
    assert (res.returncode, res.stdout) == (0, 'clean\n'), res.stderr[:3000]
