// Lookups in a stored volume and on the fly, and their gradients, on a CPU. Explained in nbs/ops/30_lookup.ipynb
#include "common.h"

// ---- windows
struct Look { i64 B, C, H, Wd; int R, L; };
struct Level { i64 h, w; };
struct Block { i64 b, q0, m, x0[16], y0[16]; };   // up to sixteen queries, and where their windows begin
struct Part { i64 top, bottom, left, right; };    // of a window: what lies inside the map

static inline Part inside(i64 x0, i64 y0, int side, const Level &s) {
  auto clip = [&](i64 v) { return std::max<i64>(0, std::min<i64>(side, v)); };
  return {clip(-y0), clip(s.h - y0), clip(-x0), clip(s.w - x0)};
}

// the window's first cell and the place between two cells; far away or NaN: where there are no cells
static inline void place(float x, i64 size, int R, i64 &first, float &t) {
  const float f = std::floor(x), low = -R - 3.f;
  t = x - f;
  first = (i64)(f > low ? std::min(f, size + R + 2.f) : low) - R;
}

// [(2R+2)^2][16] cells -> [(2R+1)^2][16] bilinear values, x offset slow
static inline void blend(const float *cell, int R, const float *tx, const float *ty, float *out) {
  const int n = 2*R + 1, side = n + 1;
  for (int j = 0; j < n; j++) for (int v = 0; v < 16; v += W) {
    const vec x = load(tx + v), y = load(ty + v); vec last = all(0);
    for (int i = 0; i < side; i++) {
      const float *c = cell + (i*side + j)*16 + v;
      const vec l = load(c), now = l + x*(load(c + 16) - l);
      if (i) store(out + (j*n + i - 1)*16 + v, last + y*(now - last));
      last = now;
    }
  }
}

// ---- volume
static inline void place_all(const float *coords, const Look &k, const Level *size, int l, Block &o, float *tx, float *ty) {
  const i64 plane = k.H*k.Wd; const float *at = coords + 2*o.b*plane + o.q0, s = 1.f/(1 << l);
  for (i64 q = 0; q < o.m; q++) place(at[q]*s, size[l].w, k.R, o.x0[q], tx[q]), place(at[plane + q]*s, size[l].h, k.R, o.y0[q], ty[q]);
}

// read(block, level, cells) finds the cells; the rest is the same for a stored volume and for one that is never made
template<class T, class Read> static void windows(const float *coords, const Look &k, const Level *size, T *out, int threads, Read read) {
  const int side = 2*k.R + 2, n = (side - 1)*(side - 1); const i64 plane = k.H*k.Wd, blocks = (plane + 15)/16;
  parallel(k.B*blocks, threads, (n + side*side)*16, [&](i64 item, float *cells) {
    Block o = {item/blocks, item%blocks*16, 0, {}, {}}; o.m = std::min<i64>(16, plane - o.q0);
    float *values = cells + side*side*16, tx[16] = {}, ty[16] = {}; T *to = out + o.b*k.L*n*plane + o.q0;
    for (int l = 0; l < k.L; l++) {
      place_all(coords, k, size, l, o, tx, ty);
      memset(cells, 0, 4*side*side*16);
      read(o, l, cells);
      blend(cells, k.R, tx, ty, values);
      for (i64 c = 0; c < n; c++, to += plane) for (i64 q = 0; q < o.m; q++) put(to + q, values[c*16 + q]);
    }
  });
}

template<class T> static void lookup(const void *const *maps, const float *coords, T *out, const Look &k, const Level *size, int threads) {
  const int side = 2*k.R + 2; const i64 plane = k.H*k.Wd;
  windows(coords, k, size, out, threads, [&](const Block &o, int l, float *cells) {
    const Level s = size[l];
    for (i64 q = 0; q < o.m; q++) {
      const Part p = inside(o.x0[q], o.y0[q], side, s); const T *map = (const T *)maps[l] + (o.b*plane + o.q0 + q)*s.h*s.w;
      for (i64 i = p.top; i < p.bottom; i++) for (i64 j = p.left; j < p.right; j++) cells[(i*side + j)*16 + q] = get(map[(o.y0[q] + i)*s.w + o.x0[q] + j]);
    }
  });
}
API void flowbook_lookup(const void *const *maps, const float *coords, void *out, const i64 *s, const i64 *sizes, int R, int L, int type, int threads) {
  const Look k = {s[0], s[1], s[2], s[3], R, L};
  FOR_TYPE(type, lookup(maps, coords, (T *)out, k, (const Level *)sizes, threads));
}

// ---- unblend
// `blend` turned round: gradients of values -> gradients of cells
static inline void unblend(const float *value, int R, const float *tx, const float *ty, float *cell) {
  const int n = 2*R + 1, side = n + 1;
  memset(cell, 0, 4*side*side*16);
  for (int j = 0; j < n; j++) for (int i = 0; i < n; i++) for (int v = 0; v < 16; v += W) {
    const vec g = load(value + (j*n + i)*16 + v), x = load(tx + v), y = load(ty + v), low = g*y, high = g - low, lx = low*x, hx = high*x;
    float *c = cell + (i*side + j)*16 + v, *d = c + side*16;
    store(c, load(c) + high - hx); store(c + 16, load(c + 16) + hx);
    store(d, load(d) + low - lx); store(d + 16, load(d + 16) + lx);
  }
}

// write(block, cells) takes the gradients of one level's cells
template<class T, class Write> static void unwindows(const T *grad, const float *coords, const Look &k, const Level *size, int l, int threads, Write write) {
  const int side = 2*k.R + 2, n = (side - 1)*(side - 1); const i64 plane = k.H*k.Wd, blocks = (plane + 15)/16;
  parallel(k.B*blocks, threads, (n + side*side)*16, [&](i64 item, float *cells) {
    Block o = {item/blocks, item%blocks*16, 0, {}, {}}; o.m = std::min<i64>(16, plane - o.q0);
    float *values = cells + side*side*16, tx[16] = {}, ty[16] = {}; const T *from = grad + (o.b*k.L + l)*n*plane + o.q0;
    place_all(coords, k, size, l, o, tx, ty);
    memset(values, 0, 4*n*16);
    for (i64 c = 0; c < n; c++, from += plane) for (i64 q = 0; q < o.m; q++) values[c*16 + q] = get(from[q]);
    unblend(values, k.R, tx, ty, cells);
    write(o, cells);
  });
}

// ---- volume_backward
template<class T> static void lookup_backward(const T *grad, const float *coords, void *const *maps, const Look &k, const Level *size, int threads) {
  const int side = 2*k.R + 2; const i64 plane = k.H*k.Wd;
  for (int l = 0; l < k.L; l++) unwindows(grad, coords, k, size, l, threads, [&](const Block &o, const float *cells) {
    const Level s = size[l];
    for (i64 q = 0; q < o.m; q++) {
      const Part p = inside(o.x0[q], o.y0[q], side, s); T *map = (T *)maps[l] + (o.b*plane + o.q0 + q)*s.h*s.w;
      for (i64 i = p.top; i < p.bottom; i++) for (i64 j = p.left; j < p.right; j++) put(map + (o.y0[q] + i)*s.w + o.x0[q] + j, cells[(i*side + j)*16 + q]);
    }
  });
}
API void flowbook_lookup_backward(const void *grad, const float *coords, void *const *maps, const i64 *s, const i64 *sizes, int R, int L, int type, int threads) {
  const Look k = {s[0], s[1], s[2], s[3], R, L};
  FOR_TYPE(type, lookup_backward((const T *)grad, coords, maps, k, (const Level *)sizes, threads));
}

// ---- fly
typedef float four __attribute__((vector_size(16)));
static inline four fold(vec v) { four p[W/4]; memcpy(p, &v, sizeof v); for (int i = 1; i < W/4; i++) p[0] += p[i]; return p[0]; }
static inline four totals(const vec *s) {   // the sums of four vectors
  const four a = fold(s[0]), b = fold(s[1]), c = fold(s[2]), d = fold(s[3]);
  const four e = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const four f = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(e, f, 0, 1, 4, 5) + __builtin_shufflevector(e, f, 2, 3, 6, 7);
}

// products of a query with Q neighbouring cells, to every 16th float of out
template<int Q> static inline void dots(const float *f, const float *cell, i64 C, float scale, float *out) {
  const int groups = (Q + 3)/4; vec s[groups*4]; i64 c = 0;
  for (int q = 0; q < groups*4; q++) s[q] = all(0);
  for (; c + W <= C; c += W) { const vec x = load(f + c); for (int q = 0; q < Q; q++) s[q] += x*load(cell + q*C + c); }
  for (int g = 0; g < groups; g++) {
    const four t = totals(s + 4*g);
    for (int q = 4*g; q < Q && q < 4*g + 4; q++) {
      float r = t[q - 4*g];
      for (i64 d = c; d < C; d++) r += f[d]*cell[q*C + d];
      out[q*16] = r*scale;
    }
  }
}
static void dots_row(const float *f, const float *cell, i64 C, i64 n, float scale, float *out) {
  if (n == 10) return dots<10>(f, cell, C, scale, out);
  for (; n >= 4; n -= 4, cell += 4*C, out += 64) dots<4>(f, cell, C, scale, out);
  for (; n > 0; n--, cell += C, out += 16) dots<1>(f, cell, C, scale, out);
}

// ---- fly_half
#if defined(__AVX512F__)
__attribute__((target("avx512bf16"))) static void dots_pairs(const bf16 *f, const bf16 *cell, i64 C, i64 n, float scale, float *out) {
  for (; n > 0; n -= 5) {
    const int m = n < 5 ? n : 5; __m512 s[5]; i64 c = 0;
    for (int q = 0; q < 5; q++) s[q] = _mm512_setzero_ps();
    for (; c + 32 <= C; c += 32) {
      const __m512bh x = (__m512bh)_mm512_loadu_si512(f + c);
      if (m == 5) for (int q = 0; q < 5; q++) s[q] = _mm512_dpbf16_ps(s[q], x, (__m512bh)_mm512_loadu_si512(cell + q*C + c));
      else for (int q = 0; q < m; q++) s[q] = _mm512_dpbf16_ps(s[q], x, (__m512bh)_mm512_loadu_si512(cell + q*C + c));
    }
    for (int q = 0; q < m; q++, cell += C, out += 16) {
      float r = _mm512_reduce_add_ps(s[q]);
      for (i64 d = c; d < C; d++) r += get(f[d])*get(cell[d]);
      out[0] = r*scale;
    }
  }
}
#endif
static void dots_row(const bf16 *f, const bf16 *cell, i64 C, i64 n, float scale, float *out) {
#if defined(__AVX512F__)
  static const bool pairs = __builtin_cpu_supports("avx512bf16");
  if (pairs) return dots_pairs(f, cell, C, n, scale, out);
#endif
  for (; n > 0; n--, cell += C, out += 16) {
    float part[W] = {}, r = 0; i64 c = 0;
    for (; c + W <= C; c += W) for (int v = 0; v < W; v++) part[v] += get(f[c + v])*get(cell[c + v]);
    for (; c < C; c++) r += get(f[c])*get(cell[c]);
    for (int v = 0; v < W; v++) r += part[v];
    out[0] = r*scale;
  }
}

// ---- fly_forward
template<class T> static void fly(const T *f1, const void *const *f2, const float *coords, T *out, const Look &k, const Level *size, int threads) {
  const int side = 2*k.R + 2; const i64 plane = k.H*k.Wd, C = k.C; const float scale = 1/std::sqrt((float)C);
  windows(coords, k, size, out, threads, [&](const Block &o, int l, float *cells) {
    const Level s = size[l]; const T *map = (const T *)f2[l] + o.b*s.h*s.w*C, *f = f1 + (o.b*plane + o.q0)*C; Part p[16];
    for (i64 q = 0; q < o.m; q++) p[q] = inside(o.x0[q], o.y0[q], side, s);
    for (i64 g = 0; g < o.m; g += 8) for (i64 i = 0; i < side; i++) for (i64 q = g; q < std::min(o.m, g + 8); q++) {
      if (i < p[q].top || i >= p[q].bottom || p[q].left >= p[q].right) continue;
      const T *row = map + ((o.y0[q] + i)*s.w + o.x0[q] + p[q].left)*C;
      dots_row(f + q*C, row, C, p[q].right - p[q].left, scale, cells + (i*side + p[q].left)*16 + q);
    }
  });
}
API void flowbook_fly(const void *f1, const void *const *f2, const float *coords, void *out, const i64 *s, const i64 *sizes, int R, int L, int type, int threads) {
  const Look k = {s[0], s[1], s[2], s[3], R, L}; const Level *z = (const Level *)sizes;
  if (type == 0) fly((const float *)f1, f2, coords, (float *)out, k, z, threads);
  else fly((const bf16 *)f1, f2, coords, (bf16 *)out, k, z, threads);
}

// ---- fly_backward
struct Spot { i64 cell; float g; };

static void query_gradients(const Spot *spots, const int *count, int each, const float *map, float *mine, i64 C, i64 plane, int threads) {
  parallel(plane, threads, 0, [&](i64 q, float *) {
    const Spot *p = spots + q*each, *end = p + count[q]; float *to = mine + q*C; i64 c = 0;
    for (; c + 4*W <= C; c += 4*W) {
      vec t[4]; for (int v = 0; v < 4; v++) t[v] = load(to + c + v*W);
      for (const Spot *e = p; e < end; e++) for (int v = 0; v < 4; v++) t[v] += all(e->g)*load(map + e->cell + c + v*W);
      for (int v = 0; v < 4; v++) store(to + c + v*W, t[v]);
    }
    for (; c < C; c++) for (const Spot *e = p; e < end; e++) to[c] += e->g*map[e->cell + c];
  });
}
static void cell_gradients(const Spot *spots, const int *count, int each, const float *f, float *to, i64 C, i64 plane, int threads) {
  const i64 slice = std::max<i64>(32, (C/std::max(1, threads) + 15)/16*16);
  parallel((C + slice - 1)/slice, threads, 0, [&](i64 part, float *) {
    const i64 c = part*slice, m = std::min(slice, C - c);
    for (i64 q = 0; q < plane; q++) for (const Spot *e = spots + q*each, *end = e + count[q]; e < end; e++) {
      const float *x = f + q*C + c; float *y = to + e->cell + c;
      for (i64 d = 0; d < m; d++) y[d] += e->g*x[d];
    }
  });
}
API void flowbook_fly_backward(const float *grad, const float *f1, const float *const *f2, const float *coords, float *g1, float *const *g2,
                                      const i64 *s, const i64 *sizes, int R, int L, int threads) {
  const Level *size = (const Level *)sizes; const int side = 2*R + 2, n = (side - 1)*(side - 1), each = side*side;
  const i64 B = s[0], C = s[1], plane = s[2]*s[3]; const float scale = 1/std::sqrt((float)C); const Look one = {1, C, s[2], s[3], R, L};
  std::vector<Spot> spots(plane*each); std::vector<int> count(plane);
  for (i64 b = 0; b < B; b++) for (int l = 0; l < L; l++) {
    const Level z = size[l];
    unwindows(grad + b*L*n*plane, coords + 2*b*plane, one, size, l, threads, [&](const Block &o, const float *cells) {
      for (i64 q = 0; q < o.m; q++) {
        const Part p = inside(o.x0[q], o.y0[q], side, z); Spot *start = &spots[(o.q0 + q)*each], *to = start;
        for (i64 i = p.top; i < p.bottom; i++) for (i64 j = p.left; j < p.right; j++) *to++ = {((o.y0[q] + i)*z.w + o.x0[q] + j)*C, cells[(i*side + j)*16 + q]*scale};
        count[o.q0 + q] = to - start;
      }
    });
    query_gradients(spots.data(), count.data(), each, f2[l] + b*z.h*z.w*C, g1 + b*plane*C, C, plane, threads);
    cell_gradients(spots.data(), count.data(), each, f1 + b*plane*C, g2[l] + b*z.h*z.w*C, C, plane, threads);
  }
}
