// Local correlation and its gradients on a CPU. Explained in nbs/ops/10_correlation.ipynb
#include "common.h"

// ---- pack
#if defined(__x86_64__)
#define KEEP(v) asm("" : "+v"(v))   // one load for all rows: the compiler would rather load again for each
#else
#define KEEP(v)
#endif
struct Corr { i64 B, C, H, Wd; int R, step; i64 D; };
// SIDE registers make a line of the cache; with two rows there is room for the sums of five displacements, else of nine; CB channels' sums in the backward pass
enum { SIDE = 16/W, LINE = 16, MOST = ROWS == 2 ? 5 : 9, CB = ROWS == 2 ? 6 : 8 };

// n floats of a row from x0 on, zeros where there is no row or no column
template<class T> static inline void take(const T *row, i64 width, i64 x0, int n, float *out) {
  if (!row) { memset(out, 0, 4*n); return; }
  if (x0 < 0 || x0 + n > width) { for (int i = 0; i < n; i++) out[i] = x0 + i >= 0 && x0 + i < width ? get(row[x0 + i]) : 0.f; return; }
  if (n == W) for (int i = 0; i < W; i++) out[i] = get(row[x0 + i]);
  else if (n == W + 8) for (int i = 0; i < W + 8; i++) out[i] = get(row[x0 + i]);
  else for (int i = 0; i < n; i++) out[i] = get(row[x0 + i]);
}

// one row of all channels: out[c][n]
template<class T> static void pack(const T *map, const Corr &k, i64 y, i64 x0, int n, float *out) {
  const bool there = y >= 0 && y < k.H;
  for (i64 c = 0; c < k.C; c++) take(there ? map + (c*k.H + y)*k.Wd : (const T *)0, k.Wd, x0, n, out + c*n);
}
template<class T> static inline void give(T *row, i64 n, const float *v) { for (i64 i = 0; i < n; i++) put(row + i, v[i]); }

// ---- meet
// W pixels of N rows and J displacements, all channels; the sums go to to[r][j][LINE], of MOST displacements a row
template<int J, int N> static void meet(const float *const *a, const float *b, i64 C, int n, int step, float *to) {
  vec sum[N][J];
  for (int r = 0; r < N; r++) for (int j = 0; j < J; j++) sum[r][j] = all(0);
  for (i64 c = 0; c < C; c++, b += n) {
    vec x[N];
    for (int r = 0; r < N; r++) { x[r] = load(a[r] + c*W); KEEP(x[r]); }
    for (int j = 0; j < J; j++) {
      vec y = load(b + j*step);
      KEEP(y);
      for (int r = 0; r < N; r++) sum[r][j] += x[r]*y;
    }
  }
  for (int r = 0; r < N; r++) for (int j = 0; j < J; j++) store(to + (r*MOST + j)*LINE, sum[r][j]);
}

template<int N> static void meet_some(int J, const float *const *a, const float *b, i64 C, int n, int step, float *to) {
#define CASE(j) case j: return meet<j <= MOST ? j : 1, N>(a, b, C, n, step, to);
  switch (J) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) }
#undef CASE
}

// n sums of a row to where they belong; stream: past the cache
template<class T> static inline void give(T *row, i64 n, const float *v, bool stream) {
#if defined(__AVX2__)
  if (sizeof(T) == 4 && stream && n == LINE && !((uintptr_t)row & 63)) { for (int i = 0; i < LINE; i += 8) _mm256_stream_ps((float *)row + i, _mm256_loadu_ps(v + i)); return; }
#endif
  if (n == LINE) for (int i = 0; i < LINE; i++) put(row + i, v[i]); else give(row, n, v);
}

// ---- rows
// which rows of a group meet row y of the other map: the first, and how many
struct Group { i64 y[ROWS]; int rows; };
static inline int meeting(const Group &g, const Corr &k, i64 y, int &first) {
  int m = 0;
  for (int r = g.rows - 1; r >= 0; r--) { const i64 i = (y - g.y[r])/k.step + k.R; if (i >= 0 && i < k.D) first = r, m++; }
  return m;
}

// work(batch, first column, columns, group, rows in the ring, scratch) for all blocks of `wide` columns
template<class F> static void blocks_of_rows(const Corr &k, int wide, int threads, size_t floats, F work) {
  const i64 blocks = (k.Wd + wide - 1)/wide, most = std::max<i64>(1, k.H/(4*k.R*k.step + 8));
  const i64 bands = threads == 1 ? 1 : std::min(most, std::max<i64>(1, 4*threads/(k.B*blocks))), band = (k.H + bands - 1)/bands;
  parallel(k.B*blocks*bands, threads, floats, [&](i64 item, float *scratch) {
    const i64 x0 = item/bands%blocks*wide, y0 = item%bands*band, y1 = std::min(k.H, y0 + band);
    i64 packed = y0 - k.R*k.step;   // rows of the other map that the ring has seen
    for (i64 top = y0; top < y1; top += ROWS*k.step) for (i64 phase = 0; phase < k.step; phase++) {
      Group g = {};
      for (i64 y = top + phase; y < std::min(y1, top + ROWS*k.step); y += k.step) g.y[g.rows++] = y;
      if (g.rows) work(item/(blocks*bands), x0, std::min<i64>(wide, k.Wd - x0), g, packed, scratch);
    }
  });
}

// ---- forward
template<class T> static void correlate(const T *f1, const T *f2, T *out, const Corr &k, int threads) {
  const int n = LINE + 2*k.R*k.step, keep = 2*k.R*k.step + ROWS*k.step;
  const i64 plane = k.H*k.Wd; const bool stream = sizeof(T) == 4 && 4.*k.B*k.D*k.D*plane > 4e6;
  const size_t own = ROWS*k.C*LINE, sums = ROWS*MOST*LINE;
  blocks_of_rows(k, LINE, threads, own + sums + (size_t)keep*k.C*n, [&](i64 b, i64 x0, i64 xs, const Group &g, i64 &packed, float *scratch) {
    float *mine = scratch, *temp = scratch + own, *ring = temp + sums; const float *a[SIDE][ROWS];
    for (int r = 0; r < g.rows; r++) for (int s = 0; s < SIDE; s++) {
      float *to = mine + (r*SIDE + s)*k.C*W;
      pack(f1 + b*k.C*plane, k, g.y[r], x0 + s*W, W, to), a[s][r] = to;
    }
    for (i64 y = g.y[0] - k.R*k.step; y <= g.y[g.rows-1] + k.R*k.step; y += k.step) {
      for (; packed <= y; packed++) if (packed >= 0 && packed < k.H) pack(f2 + b*k.C*plane, k, packed, x0 - k.R*k.step, n, ring + packed%keep*k.C*n);
      int first = 0; const int m = meeting(g, k, y, first);
      for (i64 j = 0, J; j < k.D; j += J) {
        const i64 parts = (k.D - j + MOST - 1)/MOST; J = (k.D - j + parts - 1)/parts;   // 21 displacements, at most 9 at once: three times seven
        T *to[ROWS] = {};
        for (int r = 0; r < m; r++) to[r] = out + ((b*k.D + (y - g.y[first + r])/k.step + k.R)*k.D + j)*plane + g.y[first + r]*k.Wd + x0;
        if (y < 0 || y >= k.H) { for (int r = 0; r < m; r++) for (int q = 0; q < J; q++) memset((void *)(to[r] + q*plane), 0, xs*sizeof(T)); continue; }
        for (int s = 0; s < SIDE; s++) {
          const float *line = ring + y%keep*k.C*n + j*k.step + s*W;
          if (ROWS == 3 && m == 3) meet_some<ROWS>(J, a[s] + first, line, k.C, n, k.step, temp + s*W);
          else if (ROWS > 1 && m == 2) meet_some<ROWS == 1 ? 1 : 2>(J, a[s] + first, line, k.C, n, k.step, temp + s*W);
          else meet_some<1>(J, a[s] + first, line, k.C, n, k.step, temp + s*W);
        }
        for (int r = 0; r < m; r++) for (int q = 0; q < J; q++) give(to[r] + q*plane, xs, temp + (r*MOST + q)*LINE, stream);
      }
    }
#if defined(__AVX2__)
    _mm_sfence();
#endif
  });
}

API void flowbook_correlation(const void *f1, const void *f2, void *out, const i64 *s, int R, int step, int type, int threads) {
  const Corr k = {s[0], s[1], s[2], s[3], R, step, 2*R + 1};
  FOR_TYPE(type, correlate((const T *)f1, (const T *)f2, (T *)out, k, threads));
}

// ---- collect
// a row of grad for all displacements: out[i][j][LINE]; turned: as the other map sees it. Each piece lies in a plane of its own: ask for it well ahead
template<class T> static void pack_grad(const T *grad, const Corr &k, i64 y, i64 x0, bool turned, float *out) {
  const i64 planes = k.D*k.D;
  auto piece = [&](i64 p, i64 &x) -> const T * {
    const i64 i = p/k.D - k.R, j = p%k.D - k.R, yy = turned ? y + i*k.step : y;
    x = turned ? x0 + j*k.step : x0;
    return yy >= 0 && yy < k.H ? grad + ((turned ? planes - 1 - p : p)*k.H + yy)*k.Wd : (const T *)0;
  };
  for (i64 p = 0, x; p < planes; p++, out += LINE) {
    if (p + 8 < planes) { const T *next = piece(p + 8, x); if (next && x >= 0 && x < k.Wd) __builtin_prefetch(next + x); }
    const T *row = piece(p, x);
    take(row, k.Wd, x, LINE, out);
  }
}

// a run of rows y that meet rows F to F+N-1 of the group: at[r] moves on by one i with each
template<int F, int N> static void collect(const float *const *at, const float *ring, i64 y0, i64 y1, int keep, i64 pitch, int n, const Corr &k, vec (&sum)[ROWS][CB]) {
  vec s[N][CB]; const float *g[N];
  for (int r = 0; r < N; r++) { g[r] = at[F + r]; for (int c = 0; c < CB; c++) s[r][c] = sum[F + r][c]; }
  for (i64 y = y0; y < y1; y += k.step) {
    const float *line = ring + y%keep*pitch;
    for (i64 j = 0; j < k.D; j++, line += k.step) {
      vec x[N];
      for (int r = 0; r < N; r++) { x[r] = load(g[r] + j*LINE); KEEP(x[r]); }
      for (int c = 0; c < CB; c++) {
        vec f = load(line + c*n);
        KEEP(f);
        for (int r = 0; r < N; r++) s[r][c] += x[r]*f;
      }
    }
    for (int r = 0; r < N; r++) g[r] += k.D*LINE;
  }
  for (int r = 0; r < N; r++) for (int c = 0; c < CB; c++) sum[F + r][c] = s[r][c];
}

static void collect_some(int first, int m, const float *const *at, const float *ring, i64 y0, i64 y1, int keep, i64 pitch, int n, const Corr &k, vec (&s)[ROWS][CB]) {
#define CASE(f, m) case f*4 + m: return collect<f < ROWS ? f : 0, (f + m <= ROWS) ? m : 1>(at, ring, y0, y1, keep, pitch, n, k, s);
  if (ROWS > 1) switch (first*4 + m) { CASE(0, 3) CASE(0, 2) CASE(1, 2) CASE(1, 1) CASE(2, 1) }
#undef CASE
  collect<0, 1>(at, ring, y0, y1, keep, pitch, n, k, s);
}

// ---- backward
// out[c,y,x] = sum over i,j of grad[i,j,y,x]*f[c, y+(i-R)*step, x+(j-R)*step]
template<class T> static void adjoint(const T *grad, const T *f, T *out, const Corr &k, bool turned, int threads) {
  const int n = LINE + 2*k.R*k.step, keep = 2*k.R*k.step + ROWS*k.step;
  const i64 plane = k.H*k.Wd, Cp = (k.C + CB - 1)/CB*CB, all_d = k.D*k.D*LINE;
  blocks_of_rows(k, LINE, threads, ROWS*(all_d + Cp*LINE) + (size_t)keep*Cp*n, [&](i64 b, i64 x0, i64 xs, const Group &g, i64 &packed, float *scratch) {
    float *grads = scratch, *sums = grads + ROWS*all_d, *ring = sums + ROWS*Cp*LINE;
    for (int r = 0; r < g.rows; r++) pack_grad(grad + b*k.D*k.D*plane, k, g.y[r], x0, turned, grads + r*all_d);
    const i64 low = g.y[0] - k.R*k.step, high = g.y[g.rows-1] + k.R*k.step;
    for (; packed <= high; packed++) if (packed >= 0 && packed < k.H) {
      float *line = ring + packed%keep*Cp*n;
      pack(f + b*k.C*plane, k, packed, x0 - k.R*k.step, n, line);
      memset(line + k.C*n, 0, 4*(Cp - k.C)*n);
    }
    for (i64 c = 0; c < Cp; c += CB) for (int part = 0; part < LINE; part += W) {
      vec s[ROWS][CB];
      for (int r = 0; r < ROWS; r++) for (int q = 0; q < CB; q++) s[r][q] = all(0);
      for (i64 y = low + (low < 0 ? (k.step - 1 - low)/k.step*k.step : 0), end; y <= std::min(high, k.H - 1); y = end) {
        const float *at[ROWS] = {}; int first = 0, other; const int m = meeting(g, k, y, first);
        for (end = y + k.step; end <= std::min(high, k.H - 1) && meeting(g, k, end, other) == m && other == first;) end += k.step;
        for (int r = first; r < first + m; r++) at[r] = grads + r*all_d + ((y - g.y[r])/k.step + k.R)*k.D*LINE + part;
        collect_some(first, m, at, ring + c*n + part, y, end, keep, Cp*n, n, k, s);
      }
      for (int r = 0; r < g.rows; r++) for (int q = 0; q < CB; q++) store(sums + (r*Cp + c + q)*LINE + part, s[r][q]);
    }
    for (int r = 0; r < g.rows; r++) for (i64 c = 0; c < k.C; c++) give(out + ((b*k.C + c)*k.H + g.y[r])*k.Wd + x0, xs, sums + (r*Cp + c)*LINE);
  });
}

API void flowbook_correlation_backward(const void *grad, const void *f1, const void *f2, void *g1, void *g2, const i64 *s, int R, int step, int type, int threads) {
  const Corr k = {s[0], s[1], s[2], s[3], R, step, 2*R + 1};
  FOR_TYPE(type, adjoint((const T *)grad, (const T *)f2, (T *)g1, k, false, threads); adjoint((const T *)grad, (const T *)f1, (T *)g2, k, true, threads));
}
