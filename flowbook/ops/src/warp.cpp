// Warping and its gradients on a CPU. Explained in nbs/ops/20_warp.ipynb
#include "common.h"

// ---- taps
struct Taps { std::vector<int32_t> at[4]; std::vector<float> w[4], u[4], v[4]; };   // where, how much, and how that changes with the flow

static Taps new_taps(i64 n) {
  Taps t;
  for (int i = 0; i < 4; i++) t.at[i].resize(n), t.w[i].resize(n), t.u[i].resize(n), t.v[i].resize(n);
  return t;
}

// of a row of pixels; cells outside count nothing. on: all that is mixed lies inside
static void taps(const float *flow, i64 plane, i64 y, i64 H, i64 Wd, bool use_mask, Taps &t) {
  for (i64 x = 0; x < Wd; x++) {
    float px = x + flow[y*Wd + x], py = y + flow[plane + y*Wd + x];
    px = px > -2.f ? std::min(px, Wd + 1.f) : -2.f;   // NaN goes outside, too
    py = py > -2.f ? std::min(py, H + 1.f) : -2.f;
    const float fx = std::floor(px), fy = std::floor(py), a = px - fx, b = py - fy, w[4] = {(1-a)*(1-b), a*(1-b), (1-a)*b, a*b};
    bool in[4]; float sum = 0;
    for (int i = 0; i < 4; i++) {
      const i64 xx = (i64)fx + i%2, yy = (i64)fy + i/2;
      in[i] = xx >= 0 && xx < Wd && yy >= 0 && yy < H;
      t.at[i][x] = in[i] ? yy*Wd + xx : 0;
      sum += in[i] ? w[i] : 0;
    }
    const bool on = !use_mask || sum > .9999f;
    for (int i = 0; i < 4; i++) {
      const float one = in[i] && on;
      t.w[i][x] = one*w[i], t.u[i][x] = one*(i/2 ? b : 1-b)*(i%2 ? 1 : -1), t.v[i][x] = one*(i%2 ? a : 1-a)*(i/2 ? 1 : -1);
    }
  }
}

// ---- forward
template<class T> static void warp(const T *x, const float *flow, T *out, const i64 *s, bool use_mask, int threads) {
  const i64 B = s[0], C = s[1], H = s[2], Wd = s[3], plane = H*Wd, band = 8, bands = (H + band - 1)/band;
  parallel(B*bands, threads, 0, [&](i64 item, float *) {
    Taps t = new_taps(Wd);
    const i64 b = item/bands, y0 = item%bands*band;
    for (i64 y = y0; y < std::min(H, y0 + band); y++) {
      taps(flow + 2*b*plane, plane, y, H, Wd, use_mask, t);
      const int32_t *p = t.at[0].data(), *q = t.at[1].data(), *r = t.at[2].data(), *o = t.at[3].data();
      const float *wp = t.w[0].data(), *wq = t.w[1].data(), *wr = t.w[2].data(), *wo = t.w[3].data();
      for (i64 c = 0; c < C; c++) {
        const T *from = x + (b*C + c)*plane; T *to = out + (b*C + c)*plane + y*Wd;
        for (i64 i = 0; i < Wd; i++) put(to + i, wp[i]*get(from[p[i]]) + wq[i]*get(from[q[i]]) + wr[i]*get(from[r[i]]) + wo[i]*get(from[o[i]]));
      }
    }
  });
}
API void flowbook_warp(const void *x, const float *flow, void *out, const i64 *s, int use_mask, int type, int threads) {
  FOR_TYPE(type, warp((const T *)x, flow, (T *)out, s, use_mask, threads));
}

// ---- backward
API void flowbook_warp_backward(const float *grad, const float *x, const float *flow, float *gx, float *gflow, const i64 *s, int use_mask, int threads) {
  const i64 B = s[0], C = s[1], H = s[2], Wd = s[3], plane = H*Wd, parts = std::min<i64>(C, threads), band = 8, bands = (H + band - 1)/band;
  parallel(B*parts, threads, 0, [&](i64 item, float *) {
    Taps t = new_taps(Wd);
    const i64 b = item/parts, part = item%parts;
    for (i64 y = 0; y < H; y++) {
      taps(flow + 2*b*plane, plane, y, H, Wd, use_mask, t);
      for (i64 c = part*C/parts; c < (part + 1)*C/parts; c++) {
        const float *g = grad + (b*C + c)*plane + y*Wd; float *to = gx + (b*C + c)*plane;
        for (i64 i = 0; i < Wd; i++) for (int k = 0; k < 4; k++) to[t.at[k][i]] += t.w[k][i]*g[i];
      }
    }
  });
  parallel(B*bands, threads, 0, [&](i64 item, float *) {
    Taps t = new_taps(Wd);
    const i64 b = item/bands, y0 = item%bands*band;
    for (i64 y = y0; y < std::min(H, y0 + band); y++) {
      taps(flow + 2*b*plane, plane, y, H, Wd, use_mask, t);
      float *gu = gflow + 2*b*plane + y*Wd, *gv = gu + plane;
      for (i64 c = 0; c < C; c++) for (int k = 0; k < 4; k++) {
        const float *g = grad + (b*C + c)*plane + y*Wd, *from = x + (b*C + c)*plane, *u = t.u[k].data(), *v = t.v[k].data(); const int32_t *at = t.at[k].data();
        for (i64 i = 0; i < Wd; i++) { const float m = g[i]*from[at[i]]; gu[i] += m*u[i]; gv[i] += m*v[i]; }
      }
    }
  });
}
