// Variational refinement of a flow on a CPU: one level of a pyramid, one warp. Explained in nbs/ops/50_variational.ipynb
#include "common.h"

// ---- board
// Red pixels have an even x + y, black ones an odd one. Each colour has its own plane: cell k of row y is pixel 2k + (y & 1)
// for red, 2k + 1 - (y & 1) for black. All neighbours of a red pixel are black, so a row is updated W pixels at a time.
struct Board {
  i64 H, Wd, half, apart, size;   // pixels; cells of a row; floats from row to row, and in one colour's plane
  Board(i64 H, i64 Wd) : H(H), Wd(Wd), half((Wd + 1)/2), apart((half + 2*W + W - 1)/W*W), size((H + 2)*apart) {}
  i64 row(i64 y) const { return (y + 1)*apart + W; }
};
// Fresh memory costs more than the arithmetic, so planes lie in memory that the caller keeps from level to level.
struct Memory {
  float *next;
  explicit Memory(float *p) : next((float *)(((uintptr_t)p + 63)/64*64)) {}
  float *take(i64 n) { float *p = next; next += (n + 15)/16*16; return p; }
};
struct Plane {   // two colours, with a frame of one cell
  float *p; i64 size;
  Plane(const Board &b, Memory &m) : p(m.take(2*b.size)), size(b.size) {
    for (int colour = 0; colour < 2; colour++) for (i64 y = 0; y < b.H + 2; y++) {   // the frame, and cells that are no pixels
      float *row = (*this)(colour) + y*b.apart;
      if (y == 0 || y > b.H) memset(row, 0, 4*b.apart);
      else memset(row, 0, 4*W), memset(row + W + b.Wd/2, 0, 4*(b.apart - W - b.Wd/2));
    }
  }
  float *operator()(int colour) const { return p + colour*size; }
};
enum { SYSTEM = 9, PER_CHANNEL = 9, OTHERS = 3, EDGES = 2, GOAL = 3, FLAT = 5 };
API i64 flowbook_refine_memory(const i64 *s) {   // floats, for images of the shape (C,H,W)
  const Board b(s[1], s[2]);
  return (SYSTEM + PER_CHANNEL*s[0] + OTHERS + EDGES + GOAL)*(2*b.size + 16) + (s[0] + FLAT)*(s[1]*s[2] + 16) + 64;
}
static void to_board(const float *row, const Board &b, i64 y, const Plane &to) {
  const int odd = y & 1; float *red = to(odd) + b.row(y), *black = to(1 - odd) + b.row(y);
  for (i64 k = 0; k < b.Wd/2; k++) red[k] = row[2*k], black[k] = row[2*k + 1];
  if (b.Wd & 1) red[b.half - 1] = row[b.Wd - 1];
}
static void from_board(const Plane &from, const Board &b, i64 y, float *row) {
  const int odd = y & 1; const float *red = from(odd) + b.row(y), *black = from(1 - odd) + b.row(y);
  for (i64 k = 0; k < b.Wd/2; k++) row[2*k] = red[k], row[2*k + 1] = black[k];
  if (b.Wd & 1) row[b.Wd - 1] = red[b.half - 1];
}

// ---- terms
static inline vec root(vec x) {
#if defined(__AVX512F__)
  return (vec)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (vec)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (vec)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < W; i++) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// What the data say about a pixel: three lines a*du + b*dv + c = 0 for each channel, of unit length: brightness, its derivatives in x and in y
struct Energy { float alpha, delta, gamma, zeta, eps, omega; };

static inline i64 inside(i64 i, i64 n) { return i < 0 ? 0 : i < n ? i : n - 1; }

// image 2 at x + flow, bilinear, the border repeated; returns which pixels stay inside
static void bring_back(const float *img, const float *flow, i64 C, i64 H, i64 Wd, float *out, float *in, int threads) {
  const i64 plane = H*Wd;
  parallel(H, threads, 0, [&](i64 y, float *) {
    for (i64 x = 0; x < Wd; x++) {
      float px = x + flow[y*Wd + x], py = y + flow[plane + y*Wd + x];
      in[y*Wd + x] = px >= -.5f && px <= Wd - .5f && py >= -.5f && py <= H - .5f;
      px = px > 0 ? std::min(px, Wd - 1.f) : 0.f, py = py > 0 ? std::min(py, H - 1.f) : 0.f;
      const i64 x0 = (i64)px, y0 = (i64)py, x1 = std::min(x0 + 1, Wd - 1), y1 = std::min(y0 + 1, H - 1);
      const float a = px - x0, b = py - y0;
      for (i64 c = 0; c < C; c++) {
        const float *r0 = img + c*plane + y0*Wd, *r1 = img + c*plane + y1*Wd;
        out[c*plane + y*Wd + x] = (1-b)*((1-a)*r0[x0] + a*r0[x1]) + b*((1-a)*r1[x0] + a*r1[x1]);
      }
    }
  });
}

// derivatives of a row: centred differences without the half, the border repeated
static inline void slope_x(const float *p, i64 Wd, float *to) {
  for (i64 x = 1; x < Wd - 1; x++) to[x] = p[x + 1] - p[x - 1];
  to[0] = p[std::min<i64>(1, Wd - 1)] - p[0], to[Wd - 1] = p[Wd - 1] - p[std::max<i64>(0, Wd - 2)];
}

// nine planes for each channel
static void lines_of(const float *img1, const float *back, i64 C, const Board &b, float zeta, float step, const std::vector<Plane> &to, Memory m, int threads) {
  const i64 H = b.H, Wd = b.Wd, plane = H*Wd; const float z = zeta*zeta;
  float *Ix = m.take(plane), *Iy = m.take(plane), *Iz = m.take(plane), *mean = m.take(plane);
  for (i64 c = 0; c < C; c++) {
    const float *p = img1 + c*plane, *q = back + c*plane;
    parallel(H, threads, 0, [&](i64 y, float *) {
      for (i64 i = y*Wd; i < (y + 1)*Wd; i++) mean[i] = .5f*(p[i] + q[i]), Iz[i] = q[i] - p[i];
    });
    parallel(H, threads, 0, [&](i64 y, float *) {
      slope_x(&mean[y*Wd], Wd, &Ix[y*Wd]);
      const float *up = &mean[inside(y - 1, H)*Wd], *down = &mean[inside(y + 1, H)*Wd];
      for (i64 x = 0; x < Wd; x++) Iy[y*Wd + x] = down[x] - up[x];
    });
    parallel(H, threads, 0, [&](i64 y, float *) {
      const i64 n = Wd + W; std::vector<float> rows(9*n), t(8*n);   // a row, and room for the last vector
      float *ix = &t[0], *iy = &t[n], *iz = &t[2*n], *xx = &t[3*n], *xy = &t[4*n], *yy = &t[5*n], *xz = &t[6*n], *yz = &t[7*n];
      const i64 at = y*Wd, u = inside(y - 1, H)*Wd, d = inside(y + 1, H)*Wd;
      memcpy(ix, Ix + at, 4*Wd), memcpy(iy, Iy + at, 4*Wd), memcpy(iz, Iz + at, 4*Wd);
      slope_x(ix, Wd, xx), slope_x(iz, Wd, xz);
      for (i64 x = 0; x < Wd; x++) xy[x] = Ix[d + x] - Ix[u + x], yy[x] = Iy[d + x] - Iy[u + x], yz[x] = Iz[d + x] - Iz[u + x];
      const vec zz = all(z), one = all(1);
      for (i64 x = 0; x < Wd; x += W) {
        const vec a = load(ix + x), c = load(iy + x), p = load(xx + x), q = load(xy + x), r = load(yy + x);
        const vec o[3] = {one/root(a*a + c*c + zz), one/root(p*p + q*q + zz), one/root(q*q + r*r + zz)};
        const vec line[9] = {a, c, load(iz + x), p, q, load(xz + x), q, r, load(yz + x)};
        for (int i = 0; i < 9; i++) store(&rows[i*n + x], (i%3 == 2 ? o[i/3]*all(step) : o[i/3])*line[i]);
      }
      for (int i = 0; i < 9; i++) to_board(&rows[i*n], b, y, to[9*c + i]);
    });
  }
}

// ---- system
// For each pixel: [a11 a12; a12 a22] (u, v) = (b1, b2), and the weights of its ties to the right and below
struct System { Plane u, v, a12, b1, b2, inv1, inv2, right, below; System(const Board &b, Memory &m) : u(b, m), v(b, m), a12(b, m), b1(b, m), b2(b, m), inv1(b, m), inv2(b, m), right(b, m), below(b, m) {} };
// how the cells of row y of a colour lie: its neighbour of the other colour to the left is k + left, to the right k + left + 1
static inline int left_of(i64 y, int colour) { return (y & 1) == colour ? -1 : 0; }

// ties: alpha/2 / sqrt(|grad u|^2 + |grad v|^2 + eps^2), forward differences; none across the border
static void ties(const System &s, const Board &b, const Energy &e, const Plane *edge_x, const Plane *edge_y, i64 y) {
  for (int colour = 0; colour < 2; colour++) {
    const i64 at = b.row(y); const int r = left_of(y, colour) + 1, other = 1 - colour; const bool last = y == b.H - 1;
    const i64 under = last ? at : at + b.apart; const int under_colour = last ? colour : other;
    const float *u = s.u(colour) + at, *v = s.v(colour) + at, *ur = s.u(other) + at + r, *vr = s.v(other) + at + r;
    const float *ud = s.u(under_colour) + under, *vd = s.v(under_colour) + under;
    float *right = s.right(colour) + at, *below = s.below(colour) + at;
    const i64 x0 = (y & 1) == colour ? 0 : 1, edge = (b.Wd - 1 - x0) % 2 == 0 ? (b.Wd - 1 - x0)/2 : -1;   // cell of the last pixel of the row
    for (i64 k = 0; k < b.half; k += W) {
      vec dx = load(ur + k) - load(u + k), ex = load(vr + k) - load(v + k), dy = load(ud + k) - load(u + k), ey = load(vd + k) - load(v + k);
      if (edge >= k && edge < k + W) dx[edge - k] = ex[edge - k] = 0;
      vec w = all(.5f*e.alpha)/root(dx*dx + ex*ex + dy*dy + ey*ey + all(e.eps*e.eps)), wx = w, wy = last ? all(0) : w;
      if (edge_x) wx *= load((*edge_x)(colour) + at + k), wy *= load((*edge_y)(colour) + at + k);
      store(right + k, wx), store(below + k, wy);
    }
    for (i64 k = (b.Wd - x0 + 1)/2; k < b.half + W; k++) right[k] = below[k] = 0;   // cells that are no pixels
    if (edge >= 0) right[edge] = 0;
  }
}

// one linear system: weights from where the flow is now
static void assemble(const System &s, const std::vector<Plane> &lines, const Plane &u0, const Plane &v0, const Plane &seen, const std::vector<Plane> &goal, i64 C, const Board &b, const Energy &e, i64 y) {
  for (int colour = 0; colour < 2; colour++) {
    const i64 at = b.row(y); const int l = left_of(y, colour), other = 1 - colour;
    const vec eps = all(e.eps*e.eps), dw = all(.5f*e.delta), gw = all(.5f*e.gamma);
    for (i64 k = 0; k < b.half; k += W) {
      const vec U = load(u0(colour) + at + k), V = load(v0(colour) + at + k), du = load(s.u(colour) + at + k) - U, dv = load(s.v(colour) + at + k) - V;
      vec r = eps, g = eps, m11 = all(0), m12 = m11, m22 = m11, m1 = m11, m2 = m11, n11 = m11, n12 = m11, n22 = m11, n1 = m11, n2 = m11;
      for (i64 c = 0; c < C; c++) for (int i = 0; i < 3; i++) {
        const vec a = load(lines[9*c + 3*i](colour) + at + k), bb = load(lines[9*c + 3*i + 1](colour) + at + k), z = load(lines[9*c + 3*i + 2](colour) + at + k), off = z + a*du + bb*dv;
        if (i == 0) r += off*off, m11 += a*a, m12 += a*bb, m22 += bb*bb, m1 += a*z, m2 += bb*z;
        else g += off*off, n11 += a*a, n12 += a*bb, n22 += bb*bb, n1 += a*z, n2 += bb*z;
      }
      const vec on = load(seen(colour) + at + k), p = on*dw/root(r), q = on*gw/root(g);
      const vec a11 = p*m11 + q*n11, a12 = p*m12 + q*n12, a22 = p*m22 + q*n22;
      const vec sum = load(s.right(colour) + at + k) + load(s.below(colour) + at + k) + load(s.right(other) + at + k + l) + load(s.below(other) + at - b.apart + k) + all(1e-9f);
      vec b1 = a11*U + a12*V - p*m1 - q*n1, b2 = a12*U + a22*V - p*m2 - q*n2, t = all(0);
      if (goal.size()) {
        const vec gu = load(goal[0](colour) + at + k), gv = load(goal[1](colour) + at + k), x = U + du - gu, z = V + dv - gv;
        t = load(goal[2](colour) + at + k)/root(x*x + z*z + eps), b1 += t*gu, b2 += t*gv;
      }
      store(s.a12(colour) + at + k, a12), store(s.b1(colour) + at + k, b1), store(s.b2(colour) + at + k, b2);
      store(s.inv1(colour) + at + k, all(e.omega)/(a11 + t + sum)), store(s.inv2(colour) + at + k, all(e.omega)/(a22 + t + sum));
    }
  }
}

// ---- sweep
static void relax(const System &s, const Board &b, float omega, i64 y, int colour) {
  const i64 at = b.row(y); const int l = left_of(y, colour), other = 1 - colour; const vec keep = all(1 - omega);
  float *u = s.u(colour) + at, *v = s.v(colour) + at;
  const float *ou = s.u(other) + at, *ov = s.v(other) + at, *right = s.right(colour) + at, *below = s.below(colour) + at, *before = s.right(other) + at + l, *above = s.below(other) + at - b.apart;
  const float *a12 = s.a12(colour) + at, *b1 = s.b1(colour) + at, *b2 = s.b2(colour) + at, *i1 = s.inv1(colour) + at, *i2 = s.inv2(colour) + at;
  for (i64 k = 0; k < b.half; k += W) {
    const vec wr = load(right + k), wd = load(below + k), wl = load(before + k), wu = load(above + k), a = load(a12 + k), was = load(v + k);
    const vec su = load(b1 + k) + wl*load(ou + l + k) + wr*load(ou + l + 1 + k) + wu*load(ou - b.apart + k) + wd*load(ou + b.apart + k);
    const vec sv = load(b2 + k) + wl*load(ov + l + k) + wr*load(ov + l + 1 + k) + wu*load(ov - b.apart + k) + wd*load(ov + b.apart + k);
    const vec nu = keep*load(u + k) + load(i1 + k)*(su - a*was);
    store(u + k, nu), store(v + k, keep*was + load(i2 + k)*(sv - a*nu));
  }
}

// Half sweep n of row y needs half sweep n - 1 of rows y - 1 to y + 1. So `few` of them follow each other down the board, a row
// apart, while the rows stay in the cache; threads take such groups in their order, each behind the one before it.
static void sweeps(const System &s, const Board &b, float omega, int halves, int threads) {
  const int few = 10, groups = (halves + few - 1)/few;
  std::vector<std::atomic<i64>> done(groups);
  for (auto &d : done) d = 0;
  parallel(groups, threads, 0, [&](i64 g, float *) {
    const int n = std::min<int>(few, halves - (int)g*few);
    for (i64 t = 0; t < b.H + n - 1; t++) {
      if (g) while (done[g - 1].load(std::memory_order_acquire) < std::min(t + 2, b.H)) std::this_thread::yield();
      for (int i = 0; i < n; i++) { const i64 y = t - i; if (y >= 0 && y < b.H) relax(s, b, omega, y, (g*few + i) & 1); }
      done[g].store(std::max<i64>(0, t - n + 2), std::memory_order_release);
    }
  });
}

// ---- refine
// img1, img2: (C,H,W); flow: (2,H,W), changed; seen: (H,W) weight of the data, or null; edge: (2,H,W) factors of the ties right and below, or null
// match: (3,H,W) a flow that the result is drawn to and how strongly, or null
// e: alpha, delta, gamma, zeta, eps, omega, what a pixel's data count that leaves the image, and the step (2: all of the way)
API void flowbook_refine(const float *img1, const float *img2, float *flow, const float *seen, const float *edge, const float *match, float *memory, const float *e, const i64 *shape, int fixed, int sor, int threads) {
  const i64 C = shape[0], H = shape[1], Wd = shape[2], plane = H*Wd; const Board b(H, Wd);
  const Energy energy = {e[0], e[1], e[2], e[3], e[4], e[5]};
  Memory m(memory);
  std::vector<Plane> lines, goal, ties_by;
  for (i64 i = 0; i < PER_CHANNEL*C; i++) lines.emplace_back(b, m);
  for (int i = 0; match && i < GOAL; i++) goal.emplace_back(b, m);
  for (int i = 0; edge && i < EDGES; i++) ties_by.emplace_back(b, m);
  System s(b, m); Plane u0(b, m), v0(b, m), data(b, m);
  float *back = m.take(C*plane), *in = m.take(plane);
  bring_back(img2, flow, C, H, Wd, back, in, threads);
  lines_of(img1, back, C, b, energy.zeta, e[7], lines, m, threads);
  parallel(H, threads, 0, [&](i64 y, float *) {
    float *row = in + y*Wd;
    for (i64 x = 0; x < Wd; x++) row[x] = (row[x] ? 1 : e[6])*(seen ? seen[y*Wd + x] : 1);
    to_board(row, b, y, data);
    for (const Plane *p : {&s.u, &u0}) to_board(flow + y*Wd, b, y, *p);
    for (const Plane *p : {&s.v, &v0}) to_board(flow + plane + y*Wd, b, y, *p);
    for (size_t i = 0; i < goal.size(); i++) to_board(match + i*plane + y*Wd, b, y, goal[i]);
    for (size_t i = 0; i < ties_by.size(); i++) to_board(edge + i*plane + y*Wd, b, y, ties_by[i]);
  });
  const Plane *ex = edge ? &ties_by[0] : nullptr, *ey = edge ? &ties_by[1] : nullptr;
  for (int i = 0; i < fixed; i++) {
    parallel(H, threads, 0, [&](i64 y, float *) { ties(s, b, energy, ex, ey, y); });
    parallel(H, threads, 0, [&](i64 y, float *) { assemble(s, lines, u0, v0, data, goal, C, b, energy, y); });
    sweeps(s, b, energy.omega, 2*sor, threads);
  }
  parallel(H, threads, 0, [&](i64 y, float *) { from_board(s.u, b, y, flow + y*Wd), from_board(s.v, b, y, flow + plane + y*Wd); });
}
