// Lookups in a stored volume and on the fly, and their gradients, on a GPU. Explained in nbs/ops/07_cuda_source.ipynb

// ---- maps
struct Maps { void* map[8]; int h[8], w[8]; };    // up to eight levels, finest first

struct Spot { int x, y; float tx, ty; };          // upper left cell of a window, and how far into it the centre is
__device__ __forceinline__ Spot locate(const float* coords, i64 n, i64 count, int level, int radius, int h, int w) {
  const float x = coords[n]/(1 << level), y = coords[n + count]/(1 << level), fx = floorf(x), fy = floorf(y), r = radius + 2;
  // a NaN or a lost flow lands just outside; NaN survives in the fraction
  return {(int)fminf(fmaxf(fx, -r), w + r) - radius, (int)fminf(fmaxf(fy, -r), h + r) - radius, x - fx, y - fy};
}
__device__ __forceinline__ float mix(const float* p, int R, float tx, float ty) {   // bilinear, from four cells of a window with rows of R
  return (p[0]*(1 - tx) + p[1]*tx)*(1 - ty) + (p[R]*(1 - tx) + p[R + 1]*tx)*ty;
}

// ---- lookup
KERNEL(lookup, 256)(const __grid_constant__ Maps maps, const float* coords, T* out,
    i64 HW, i64 radius, i64 first, i64 levels, i64 channels, i64 blocks) {
  SHARED(float, cells);                            // (Q,R*R+1): the odd row length keeps the lanes on different banks
  __shared__ Spot spots[32];
  const int Q = blockDim.x, R = 2*radius + 2, S = R - 1, q = threadIdx.x, tid = q + Q*threadIdx.y, all = Q*blockDim.y;
  const int level = blockIdx.x/blocks % levels, h = maps.h[level], w = maps.w[level];
  const i64 batch = blockIdx.x/blocks/levels, n0 = blockIdx.x % blocks*Q;
  if (threadIdx.y == 0 && n0 + q < HW) spots[q] = locate(coords + batch*2*HW, n0 + q, HW, first + level, radius, h, w);
  __syncthreads();
  for (int t = tid; t < Q*R*R; t += all) {         // neighbouring threads read neighbouring cells
    const int k = t/(R*R), cell = t % (R*R);
    if (n0 + k >= HW) break;
    const int x = spots[k].x + cell % R, y = spots[k].y + cell/R;
    const T* map = (const T*)maps.map[level] + (batch*HW + n0 + k)*h*w;
    cells[k*(R*R + 1) + cell] = inside(y, x, h, w) ? get(map + (i64)y*w + x) : 0.f;
  }
  __syncthreads();
  if (n0 + q >= HW) return;
  out += (batch*channels + (first + level)*S*S)*HW + n0 + q;
  for (int c = threadIdx.y; c < S*S; c += blockDim.y) // neighbouring threads write neighbouring pixels; x is the slow axis
    put(out + c*HW, mix(cells + q*(R*R + 1) + c % S*R + c/S, R, spots[q].tx, spots[q].ty));
}

// ---- cell_grad
// What cell (y,x) of a window gets back: the up to four outputs that were mixed from it
__device__ __forceinline__ float cell_grad(const T* grad, i64 HW, int S, int y, int x, float tx, float ty) {
  float sum = 0;
  EACH(a, 2) EACH(b, 2) if (y >= a && y - a < S && x >= b && x - b < S)
    sum += get(grad + ((i64)(x - b)*S + y - a)*HW)*(a ? ty : 1 - ty)*(b ? tx : 1 - tx);
  return sum;
}

// ---- lookup_back
KERNEL(lookup_back, 256)(const __grid_constant__ Maps maps, const float* coords, const T* grad,
    i64 HW, i64 radius, i64 first, i64 levels, i64 channels, i64 blocks) {
  SHARED(float, cells);
  __shared__ Spot spots[32];
  const int Q = blockDim.x, R = 2*radius + 2, S = R - 1, q = threadIdx.x, tid = q + Q*threadIdx.y, all = Q*blockDim.y;
  const int level = blockIdx.x/blocks % levels, h = maps.h[level], w = maps.w[level];
  const i64 batch = blockIdx.x/blocks/levels, n0 = blockIdx.x % blocks*Q;
  if (n0 + q < HW) {
    const Spot s = locate(coords + batch*2*HW, n0 + q, HW, first + level, radius, h, w);
    if (threadIdx.y == 0) spots[q] = s;
    const T* from = grad + (batch*channels + (first + level)*S*S)*HW + n0 + q;
    for (int c = threadIdx.y; c < R*R; c += blockDim.y) cells[q*(R*R + 1) + c] = cell_grad(from, HW, S, c/R, c % R, s.tx, s.ty);
  }
  __syncthreads();
  for (int t = tid; t < Q*R*R; t += all) {
    const int k = t/(R*R), cell = t % (R*R);
    if (n0 + k >= HW) break;
    const int x = spots[k].x + cell % R, y = spots[k].y + cell/R;
    if (inside(y, x, h, w)) put((T*)maps.map[level] + (batch*HW + n0 + k)*h*w + (i64)y*w + x, cells[k*(R*R + 1) + cell]);
  }
}

// ---- fly
struct Fly { i64 C, H, W, levels, first, channels, radius, qw, cap, kmax, dots, last; };
// last: the maps of image 2 lie plane by plane (0), pixel by pixel (1), or so in whole words (2)

struct alignas(16) Word { T v[16/sizeof(T)]; };    // 4 or 8 channels of one cell: one wide access
constexpr int VEC = 16/sizeof(T);

struct Box { int x0, y0, x1, y1; };                // the cells that the windows of a block reach, ends excluded

// Where each query of the block looks, and the box around all windows. Every thread calls this
__device__ __forceinline__ void look(Spot* spots, Box* box, const float* coords, const Fly& o, int level, int h, int w, int x, int y) {
  const int R = 2*o.radius + 2;
  if (!threadIdx.x && !threadIdx.y) *box = {w, h, 0, 0};
  __syncthreads();
  if (!threadIdx.y) {
    Spot s = {w, h, 0.f, 0.f};                     // a query past the border of image 1 looks nowhere
    if (x < o.W && y < o.H) s = locate(coords, y*o.W + x, o.H*o.W, level, o.radius, h, w);
    spots[threadIdx.x] = s;
    if (s.x < w && s.y < h && s.x + R > 0 && s.y + R > 0) {
      atomicMin(&box->x0, max(s.x, 0)); atomicMax(&box->x1, min(s.x + R, w));
      atomicMin(&box->y0, max(s.y, 0)); atomicMax(&box->y1, min(s.y + R, h));
    }
  }
  __syncthreads();
}

// ---- stage
// Channels c, c+1, ... of one cell of a map, zeros past the last
__device__ __forceinline__ Word pack(const T* map, i64 cell, i64 plane, int c, int C, int last) {
  if (last == 2 && c < C) return *(const Word*)(map + cell*C + c);
  Word word;
  EACH(e, VEC) if (c + e < C) word.v[e] = map[last ? cell*C + c + e : (c + e)*plane + cell]; else put(word.v + e, 0.f);
  return word;
}
// Channels from `c0` of the box and of the block's queries, `k` words each, to shared memory, when all are done with what was there
__device__ __forceinline__ void stage(
    Word* tile, Word* mine, int k, const T* f1, const T* f2, const Box& box, const Fly& o, int c0, int h, int w, int x0, int y0) {
  const int Q = blockDim.x, bw = box.x1 - box.x0, cells = bw*(box.y1 - box.y0), tid = threadIdx.x + Q*threadIdx.y, all = Q*blockDim.y;
  __syncthreads();
  for (int t = tid; t < k*cells; t += all) {
    const int c = c0 + t/cells*VEC, cell = t % cells;
    tile[t] = pack(f2, (i64)(box.y0 + cell/bw)*w + box.x0 + cell % bw, (i64)h*w, c, o.C, o.last);
  }
  for (int t = tid; t < k*Q; t += all) {
    const int c = c0 + t/Q*VEC, x = x0 + t % Q % o.qw, y = y0 + t % Q/o.qw;
    if (x < o.W && y < o.H) mine[t] = pack(f1, y*o.W + x, o.H*o.W, c, o.C, 0);
  }
  __syncthreads();
}

// ---- rows
struct Row { int y, from, left, lo, hi; };         // up to ten cells of a window's row, of which lo...hi-1 exist
__device__ __forceinline__ Row find_row(int slot, const Spot& s, int R, int h, int w) {
  const int parts = (R + 9)/10, len = (R + parts - 1)/parts, y = s.y + slot/parts, from = slot % parts*len, left = s.x + from;
  return {y, from, left, max(0, -left), slot < R*parts && y >= 0 && y < h ? min(min(len, R - from), w - left) : 0};
}
__device__ __forceinline__ void dot(float* sum, const Word& a, const Word* cells, int lo, int hi) {
  float f[VEC];
  EACH(e, VEC) f[e] = widen(a.v[e]);
  EACH(j, 10) if (j >= lo && j < hi) {
    const Word b = cells[j];
    EACH(e, VEC) sum[j] += f[e]*widen(b.v[e]);
  }
}
// The same straight from memory, for windows too far apart for one box
__device__ __forceinline__ void reach(float* sum, const T* f1, i64 plane, const T* f2, i64 channel, i64 cell, int C, int lo, int hi) {
  for (int c = 0; c < C; c++) {
    const float a = get(f1 + c*plane);
    EACH(j, 10) if (j >= lo && j < hi) sum[j] += a*get(f2 + c*channel + j*cell);
  }
}
__device__ __forceinline__ void keep(float* dots, const float* sum, int slot, const Row& r, int R, float scale) {
  const int parts = (R + 9)/10, row = slot/parts, len = min((R + parts - 1)/parts, R - r.from);
  if (row < R) EACH(j, 10) if (j < len) dots[row*R + r.from + j] = sum[j]*scale;
}

// ---- fly_forward
KERNEL(fly, 640)(const T* f1, const __grid_constant__ Maps maps, const float* coords, T* out, Fly o) {
  SHARED(Word, tile);                              // (k,cells) of image 2, (k,Q) of image 1, (Q,R*R+1) products
  __shared__ Spot spots[64];
  __shared__ Box box;
  const int Q = blockDim.x, q = threadIdx.x, R = 2*o.radius + 2, S = R - 1, xs = (o.W + o.qw - 1)/o.qw, ys = (o.H*o.qw + Q - 1)/Q;
  i64 n = blockIdx.x;
  const int x0 = n % xs*o.qw, y0 = (n /= xs) % ys*(Q/o.qw), i = (n /= ys) % o.levels, x = x0 + q % o.qw, y = y0 + q/o.qw, h = maps.h[i], w = maps.w[i];
  const i64 batch = n/o.levels, plane = o.H*o.W, far = (i64)h*w, at = y*o.W + x, step = o.last ? o.C : 1;
  const T* f2 = (const T*)maps.map[i] + batch*o.C*far;
  f1 += batch*o.C*plane;
  look(spots, &box, coords + 2*batch*plane, o, o.first + i, h, w, x, y);
  const int bw = max(box.x1 - box.x0, 0), cells = bw*max(box.y1 - box.y0, 0), k = cells ? min((int)o.kmax, (int)o.cap/cells) : 0;
  Word* mine = tile + k*cells;
  float* dots = (float*)(tile + o.dots) + q*(R*R + 1);
  for (int slot = threadIdx.y; slot - (int)threadIdx.y < R*((R + 9)/10); slot += blockDim.y) {
    const Row r = find_row(slot, spots[q], R, h, w);
    float sum[10] = {};
    if (k) for (int c0 = 0; c0 < o.C; c0 += k*VEC) {
      stage(tile, mine, k, f1, f2, box, o, c0, h, w, x0, y0);
      if (r.lo < r.hi) for (int c = 0; c < k; c++) dot(sum, mine[c*Q + q], tile + c*cells + (r.y - box.y0)*bw + r.left - box.x0, r.lo, r.hi);
    }
    else if (r.lo < r.hi) reach(sum, f1 + at, plane, f2 + ((i64)r.y*w + r.left)*step, o.last ? 1 : far, step, o.C, r.lo, r.hi);
    __syncthreads();                               // the products may take the box's place
    keep(dots, sum, slot, r, R, 1/sqrtf(o.C));
  }
  __syncthreads();
  if (x < o.W && y < o.H) for (int c = threadIdx.y; c < S*S; c += blockDim.y)
    put(out + (batch*o.channels + (o.first + i)*S*S + c)*plane + at, mix(dots + c % S*R + c/S, R, spots[q].tx, spots[q].ty));
}

// ---- collect
// Image 1's side: word `t` of the block's queries adds up its window. Nobody else holds these elements, so the sum's order is fixed
__device__ __forceinline__ void collect(
    float* g1, const Word* tile, const float* gd, const Spot* spots, const Box& box, const Fly& o, int t, int c, int h, int w, int x0, int y0) {
  const int Q = blockDim.x, q = t % Q, R = 2*o.radius + 2, bw = box.x1 - box.x0, cells = bw*(box.y1 - box.y0), x = x0 + q % o.qw, y = y0 + q/o.qw;
  const Spot s = spots[q];
  const Word* words = tile + t/Q*cells + (s.y - box.y0)*bw + s.x - box.x0;
  float sum[VEC] = {};
  c += t/Q*VEC;
  if (x >= o.W || y >= o.H) return;
  for (int cy = max(0, -s.y); cy < min(R, h - s.y); cy++) for (int cx = max(0, -s.x); cx < min(R, w - s.x); cx++) {
    const Word word = words[cy*bw + cx];
    EACH(e, VEC) sum[e] += gd[q*(R*R + 1) + cy*R + cx]*widen(word.v[e]);
  }
  EACH(e, VEC) if (c + e < o.C) g1[((c + e)*o.H + y)*o.W + x] += sum[e];
}

// ---- scatter
// Image 2's side: word `t` of the box adds up the queries that saw it, then goes once to memory, where other blocks add too
__device__ __forceinline__ void scatter(
    float* g2, const Word* mine, const float* gd, const Spot* spots, const Box& box, const Fly& o, int t, int c, i64 h, i64 w) {
  const int Q = blockDim.x, R = 2*o.radius + 2, bw = box.x1 - box.x0, cells = bw*(box.y1 - box.y0), y = box.y0 + t % cells/bw, x = box.x0 + t % cells % bw;
  float sum[VEC] = {};
  mine += t/cells*Q;
  c += t/cells*VEC;
  for (int q = 0; q < Q; q++) {
    const int cy = y - spots[q].y, cx = x - spots[q].x;
    if (!inside(cy, cx, R, R)) continue;
    const float g = gd[q*(R*R + 1) + cy*R + cx];
    const Word word = mine[q];
    EACH(e, VEC) sum[e] += g*widen(word.v[e]);
  }
  EACH(e, VEC) if (c + e < o.C && sum[e] != 0) atomicAdd(g2 + ((c + e)*h + y)*w + x, sum[e]);
}

// ---- direct
// Windows too far apart for one box: straight from and to memory, one channel of one query
__device__ __forceinline__ void direct(float* g1, float* g2, float a, const T* f2, i64 step, const float* gd, const Spot& s, int R, int h, int w) {
  float sum = 0;
  for (int cy = max(0, -s.y); cy < min(R, h - s.y); cy++) for (int cx = max(0, -s.x); cx < min(R, w - s.x); cx++) {
    const i64 at = (i64)(s.y + cy)*w + s.x + cx;
    sum += gd[cy*R + cx]*get(f2 + at*step);
    atomicAdd(g2 + at, gd[cy*R + cx]*a);
  }
  *g1 += sum;
}

// ---- fly_back
KERNEL(fly_back, 640)(const T* f1, const __grid_constant__ Maps maps, const float* coords, const T* grad, float* g1, float* g2, Fly o) {
  SHARED(Word, tile);                              // as above; in place of the products the gradients of the windows' cells
  __shared__ Spot spots[64];
  __shared__ Box box;
  const int Q = blockDim.x, q = threadIdx.x, tid = q + Q*threadIdx.y, all = Q*blockDim.y, R = 2*o.radius + 2, S = R - 1, line = R*R + 1;
  const int xs = (o.W + o.qw - 1)/o.qw, ys = (o.H*o.qw + Q - 1)/Q;
  const int h = maps.h[0], w = maps.w[0];
  const i64 n = blockIdx.x, batch = n/xs/ys, plane = o.H*o.W, far = (i64)h*w;
  const int x0 = n % xs*o.qw, y0 = n/xs % ys*(Q/o.qw), x = x0 + q % o.qw, y = y0 + q/o.qw;
  const T* f2 = (const T*)maps.map[0] + batch*o.C*far;
  f1 += batch*o.C*plane; g1 += batch*o.C*plane; g2 += batch*o.C*far;
  look(spots, &box, coords + 2*batch*plane, o, o.first, h, w, x, y);
  const int bw = max(box.x1 - box.x0, 0), cells = bw*max(box.y1 - box.y0, 0), k = cells ? min((int)o.kmax, (int)o.cap/cells) : 0;
  Word* mine = tile + k*cells;
  float* gd = (float*)(tile + o.dots);
  const T* from = grad + (batch*o.channels + o.first*S*S)*plane + y*o.W + x;
  for (int c = threadIdx.y; c < R*R; c += blockDim.y) gd[q*line + c] = x < o.W && y < o.H && inside(spots[q].y + c/R, spots[q].x + c % R, h, w)
    ? cell_grad(from, plane, S, c/R, c % R, spots[q].tx, spots[q].ty)/sqrtf(o.C) : 0.f;
  for (int c0 = 0; k && c0 < o.C; c0 += k*VEC) {
    stage(tile, mine, k, f1, f2, box, o, c0, h, w, x0, y0);
    for (int t = tid; t < k*Q; t += all) collect(g1, tile, gd, spots, box, o, t, c0, h, w, x0, y0);
    for (int t = tid; t < k*cells; t += all) scatter(g2, mine, gd, spots, box, o, t, c0, h, w);
  }
  __syncthreads();
  if (!k && x < o.W && y < o.H) for (int c = threadIdx.y; c < o.C; c += blockDim.y)
    direct(g1 + c*plane + y*o.W + x, g2 + c*far, get(f1 + c*plane + y*o.W + x), f2 + (o.last ? c : c*far), o.last ? o.C : 1, gd + q*line, spots[q], R, h, w);
}
