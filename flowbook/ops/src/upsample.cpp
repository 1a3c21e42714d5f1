// Convex upsampling and its gradients on a CPU. Explained in nbs/ops/40_upsample.ipynb
#include "common.h"

// ---- parts
struct Up { i64 B, H, Wd; int f; };

static inline vec vexp(vec x) {   // e^x for x <= 0, to 2e-7 (Cephes)
  x = x < all(-87.f) ? all(-87.f) : x;
  const vec magic = all(12582912.f), n = (x*all(1.44269504f) + magic) - magic, r = (x - n*all(.693359375f)) + n*all(2.12194440e-4f);
  vec p = all(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) p = p*r + all(c);
  return (p*r*r + r + all(1))*(vec)((__builtin_convertvector(n, ivec) + 127) << 23);
}

// W neighbours of a row, of which n exist
template<class T> static inline vec some(const T *p, i64 n) { float t[W] = {}; for (i64 i = 0; i < std::min<i64>(n, W); i++) t[i] = get(p[i]); return load(t); }
static inline vec some(const float *p, i64 n) { if (n >= W) return load(p); float t[W] = {}; memcpy(t, p, 4*n); return load(t); }
template<class T> static inline void some_to(T *p, vec v, i64 n) { for (i64 i = 0; i < std::min<i64>(n, W); i++) put(p + i, v[i]); }

// the 3x3 coarse vectors around W pixels, zeros outside
static void around(const float *flow, const Up &k, i64 y, i64 x0, vec (&near)[2][9]) {
  for (int c = 0; c < 2; c++) for (int i = 0; i < 9; i++) {
    const i64 yy = y + i/3 - 1, x = x0 + i%3 - 1; float t[W] = {};
    if (yy >= 0 && yy < k.H) for (int v = 0; v < W; v++) if (x + v >= 0 && x + v < k.Wd) t[v] = flow[(c*k.H + yy)*k.Wd + x + v];
    near[c][i] = load(t);
  }
}
template<class T> static inline void weights(const T *mask, i64 apart, i64 n, vec (&w)[9]) {   // nine, that sum to one
  vec top = all(-INFINITY), sum = all(0);
  for (int i = 0; i < 9; i++) { w[i] = some(mask + i*apart, n); top = w[i] > top ? w[i] : top; }
  for (int i = 0; i < 9; i++) { w[i] = vexp(w[i] - top); sum += w[i]; }
  for (int i = 0; i < 9; i++) w[i] /= sum;
}

// ---- forward
template<class T> static void upsample(const float *flow, const T *mask, float *out, const Up &k, int threads) {
  const i64 plane = k.H*k.Wd; const int ff = k.f*k.f;
  parallel(k.B*k.H, threads, 0, [&](i64 item, float *) {
    const i64 b = item/k.H, y = item%k.H;
    for (i64 x0 = 0; x0 < k.Wd; x0 += W) {
      const i64 n = std::min<i64>(W, k.Wd - x0); vec near[2][9], w[9];
      around(flow + 2*b*plane, k, y, x0, near);
      for (int s = 0; s < ff; s++) {
        weights(mask + (b*9*ff + s)*plane + y*k.Wd + x0, ff*plane, n, w);
        for (int c = 0; c < 2; c++) {
          vec sum = all(0);
          for (int i = 0; i < 9; i++) sum += w[i]*near[c][i];
          float t[W], *to = out + ((2*b + c)*k.f*k.H + y*k.f + s/k.f)*k.f*k.Wd + x0*k.f + s%k.f;
          store(t, sum*all(k.f));
          for (i64 v = 0; v < n; v++) to[v*k.f] = t[v];
        }
      }
    }
  });
}
API void flowbook_upsample(const float *flow, const void *mask, float *out, const i64 *s, int factor, int type, int threads) {
  const Up k = {s[0], s[1], s[2], factor};
  FOR_TYPE(type, upsample(flow, (const T *)mask, out, k, threads));
}

// ---- backward
template<class T> static void upsample_backward(const float *grad, const float *flow, const T *mask, T *gmask, float *gnear, const Up &k, int threads) {
  const i64 plane = k.H*k.Wd; const int ff = k.f*k.f;
  parallel(k.B*k.H, threads, 0, [&](i64 item, float *) {
    const i64 b = item/k.H, y = item%k.H;
    for (i64 x0 = 0; x0 < k.Wd; x0 += W) {
      const i64 n = std::min<i64>(W, k.Wd - x0); vec near[2][9], w[9], back[2][9], g[2];
      around(flow + 2*b*plane, k, y, x0, near);
      for (int i = 0; i < 9; i++) back[0][i] = back[1][i] = all(0);
      for (int s = 0; s < ff; s++) {
        const i64 at = (b*9*ff + s)*plane + y*k.Wd + x0; vec gw[9], mean = all(0);
        weights(mask + at, ff*plane, n, w);
        for (int c = 0; c < 2; c++) {
          const float *from = grad + ((2*b + c)*k.f*k.H + y*k.f + s/k.f)*k.f*k.Wd + x0*k.f + s%k.f; float t[W] = {};
          for (i64 v = 0; v < n; v++) t[v] = k.f*from[v*k.f];
          g[c] = load(t);
        }
        for (int i = 0; i < 9; i++) {
          gw[i] = g[0]*near[0][i] + g[1]*near[1][i], mean += w[i]*gw[i];
          for (int c = 0; c < 2; c++) back[c][i] += g[c]*w[i];
        }
        for (int i = 0; i < 9; i++) some_to(gmask + at + i*ff*plane, w[i]*(gw[i] - mean), n);
      }
      for (int c = 0; c < 2; c++) for (int i = 0; i < 9; i++) some_to(gnear + ((2*b + c)*9 + i)*plane + y*k.Wd + x0, back[c][i], n);
    }
  });
}
API void flowbook_upsample_backward(const float *grad, const float *flow, const void *mask, void *gmask, float *gnear, const i64 *s, int factor, int type, int threads) {
  const Up k = {s[0], s[1], s[2], factor};
  FOR_TYPE(type, upsample_backward(grad, flow, (const T *)mask, (T *)gmask, gnear, k, threads));
}
