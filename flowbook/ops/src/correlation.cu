// Local correlation and its gradients on a GPU. Explained in nbs/ops/07_cuda_source.ipynb

// ---- strip
// The 4 pixels of a thread meet JB displacements, DP pixels apart: 3 wide reads feed 36 multiplications where JB=9, DP=1
template<int JB, int DP> struct Strip { float v[(4 + (JB - 1)*DP + 3)/4*4]; };

template<int JB, int DP> __device__ __forceinline__ void read_strip(Strip<JB, DP>& s, const float* w) {
  #pragma unroll
  for (int k = 0; k < sizeof(s.v)/16; k++) ((float4*)s.v)[k] = ((const float4*)w)[k];
}
template<int JB> __device__ __forceinline__ void read_strip(Strip<JB, 0>&, const float*) {}

template<int JB, int DP> __device__ __forceinline__ float meet(const Strip<JB, DP>& s, const float* w, int k, int j, int step) {
  return DP ? s.v[k + j*DP] : w[k + j*step];
}

// ---- lines
// Cooperative copy of `count` lines (channel, row) of a map to shared memory; zeros outside. Eight threads take a line.
__device__ __forceinline__ void stage(float* to, const T* map, int count, int rows, int cols, int top, int left, int H, int W) {
  const int line = threadIdx.y + blockDim.y*threadIdx.z, lines = blockDim.y*blockDim.z;
  for (int l = line; l < count; l += lines) {
    const int y = top + l % rows;
    const T* row = map + ((i64)(l/rows)*H + y)*W;
    for (int x = threadIdx.x; x < cols; x += 8)
      to[l*cols + x] = y >= 0 && y < H && left + x >= 0 && left + x < W ? get(row + left + x) : 0.f;
  }
}
// Four neighbours in a row of `W`, in one store where rows start at multiples of four
struct alignas(4*sizeof(T)) Four { T v[4]; };
__device__ __forceinline__ void put4(T* row, int x, int W, const float* v) {
  Four four;
  EACH(k, 4) put(four.v + k, v[k]);
  if (W % 4 == 0 && x < W) *(Four*)(row + x) = four;
  else EACH(k, 4) if (x + k < W) row[x + k] = four.v[k];
}

// ---- tile
template<int JB, int DP> __device__ __forceinline__ void correlation_tile(const T* f1, const T* f2, T* out, int C, int H, int W, int m, int dp, int CK) {
  SHARED(float, a);                                          // (CK,4,32) of f1, then (CK,rows,cols) of f2
  float* b = a + CK*128;
  const int D = 2*m + 1, step = DP ? DP : dp, ni = blockDim.z, tx = threadIdx.x, ty = threadIdx.y, tz = threadIdx.z;
  const int rows = 4 + (ni - 1)*step, cols = (35 + (JB - 1)*step)/4*4;
  const int xs = (W + 31)/32, ys = (H + 3)/4, is = (D + ni - 1)/ni, js = (D + JB - 1)/JB;
  i64 n = blockIdx.x;
  const int x0 = n % xs*32, y0 = (n /= xs) % ys*4, j0 = (n /= ys) % js*JB, i0 = (n /= js) % is*ni;
  const i64 plane = (i64)H*W, batch = n/is;
  float sum[JB][4] = {};
  for (int c0 = 0; c0 < C; c0 += CK) {
    const int ck = min(CK, C - c0);
    const i64 at = (batch*C + c0)*plane;
    stage(a, f1 + at, ck*4, 4, 32, y0, x0, H, W);
    stage(b, f2 + at, ck*rows, rows, cols, y0 + (i0 - m)*step, x0 + (j0 - m)*step, H, W);
    __syncthreads();
    for (int c = 0; c < ck; c++) {
      const float4 p4 = *(const float4*)(a + (c*4 + ty)*32 + 4*tx);
      const float p[4] = {p4.x, p4.y, p4.z, p4.w}, *w = b + (c*rows + ty + tz*step)*cols + 4*tx;
      Strip<JB, DP> s;
      read_strip(s, w);
      EACH(j, JB) EACH(k, 4) sum[j][k] += p[k]*meet(s, w, k, j, step);
    }
    __syncthreads();
  }
  if (y0 + ty < H && i0 + tz < D) EACH(j, JB) if (j0 + j < D)
    put4(out + (((batch*D + i0 + tz)*D + j0 + j)*H + y0 + ty)*W, x0 + 4*tx, W, sum[j]);
}

// ---- read_grad
// What JB outputs of 4 pixels sent back: at the pixels themselves, or (SIGN -1) where image 1's pixels lie that met them
template<int JB, int SIGN> __device__ __forceinline__ void read_grad(
    float (*g)[4], const T* grad, int y, int x, int up, int j0, int D, int m, int step, int H, int W) {
  if (SIGN < 0) y -= up;
  EACH(j, JB) EACH(k, 4) {
    const int at = x + k - (SIGN < 0 ? (j0 + j - m)*step : 0);
    g[j][k] = j0 + j < D && at >= 0 && at < W && y >= 0 && y < H ? get(grad + ((i64)(j0 + j)*H + y)*W + at) : 0.f;
  }
}

// ---- tile_back
template<int JB, int DP, int SIGN> __device__ __forceinline__ void correlation_tile_back(
    const T* grad, const T* other, T* out, int C, int H, int W, int m, int dp, int ni) {
  SHARED(float, tile);                                       // (8*groups,rows,cols) of the other map
  const int D = 2*m + 1, step = DP ? DP : dp, tx = threadIdx.x, ty = threadIdx.y, tz = threadIdx.z, CB = 8*blockDim.z;
  const int rows = 8 + (ni - 1)*step, cols = (35 + (JB - 1)*step)/4*4;
  const int xs = (W + 31)/32, ys = (H + 7)/8, cs = (C + CB - 1)/CB;
  i64 n = blockIdx.x;
  const int x0 = n % xs*32, y0 = (n /= xs) % ys*8, c0 = (n /= ys) % cs*CB;
  const i64 plane = (i64)H*W, batch = n/cs;
  float sum[8][4] = {};
  for (int i0 = 0; i0 < D; i0 += ni) for (int j0 = 0; j0 < D; j0 += JB) {
    const int up = SIGN > 0 ? i0 - m : m - i0 - ni + 1, left = SIGN > 0 ? j0 - m : m - j0 - JB + 1; // first displacement met
    __syncthreads();
    stage(tile, other + (batch*C + c0)*plane, min(CB, C - c0)*rows, rows, cols, y0 + up*step, x0 + left*step, H, W);
    __syncthreads();
    for (int i = i0; i < min(i0 + ni, D); i++) {
      float g[JB][4];
      read_grad<JB, SIGN>(g, grad + (batch*D + i)*D*plane, y0 + ty, x0 + 4*tx, (i - m)*step, j0, D, m, step, H, W);
      EACH(c, 8) if (c0 + tz*8 + c < C) {
        const float* w = tile + ((tz*8 + c)*rows + ty + (SIGN > 0 ? i - i0 : ni - 1 - i + i0)*step)*cols + 4*tx;
        Strip<JB, DP> s;
        read_strip(s, w);
        EACH(j, JB) EACH(k, 4) sum[c][k] += g[j][k]*meet(s, w, k, SIGN > 0 ? j : JB - 1 - j, step);
      }
    }
  }
  if (y0 + ty < H) EACH(c, 8) if (c0 + tz*8 + c < C)
    put4(out + ((batch*C + c0 + tz*8 + c)*H + y0 + ty)*W, x0 + 4*tx, W, sum[c]);
}

// ---- shapes
#define FORWARD(JB, DP) KERNEL(correlation_tile_##JB##_##DP, 288)(const T* f1, const T* f2, T* out, i64 C, i64 H, i64 W, i64 m, i64 dp, i64 CK) \
  { correlation_tile<JB, DP>(f1, f2, out, C, H, W, m, dp, CK); }
#define BACKWARD(JB, DP, SIDE, SIGN) \
  KERNEL(correlation_tile_back##SIDE##_##JB##_##DP, 128)(const T* grad, const T* other, T* out, i64 C, i64 H, i64 W, i64 m, i64 dp, i64 ni) \
  { correlation_tile_back<JB, DP, SIGN>(grad, other, out, C, H, W, m, dp, ni); }

// ---- window
struct Window { i64 C, H, W, K, m, stride, pad, dil, dp, oH, oW; };

// ---- plain
KERNEL(correlation_plain, 256)(const T* f1, const T* f2, T* out, i64 total, Window o) {
  const i64 n = (i64)blockIdx.x*blockDim.x + threadIdx.x, D = 2*o.m + 1, plane = o.H*o.W;
  if (n >= total) return;
  const i64 ox = n % o.oW, oy = n/o.oW % o.oH, j = n/o.oW/o.oH % D, i = n/o.oW/o.oH/D % D, at = n/o.oW/o.oH/D/D*o.C*plane;
  float sum = 0;
  for (i64 ky = 0; ky < o.K; ky++) for (i64 kx = 0; kx < o.K; kx++) {
    const i64 y1 = oy*o.stride - o.pad + ky*o.dil, x1 = ox*o.stride - o.pad + kx*o.dil, y2 = y1 + (i - o.m)*o.dp, x2 = x1 + (j - o.m)*o.dp;
    if (inside(y1, x1, o.H, o.W) && inside(y2, x2, o.H, o.W))
      for (i64 c = 0; c < o.C; c++) sum += get(f1 + at + c*plane + y1*o.W + x1)*get(f2 + at + c*plane + y2*o.W + x2);
  }
  put(out + n, sum);
}

// ---- plain_back
// One thread per element of the gradient collects what every output that used it sends back. side 1: f1, side -1: f2
KERNEL(correlation_plain_back, 256)(const T* grad, const T* other, T* out, i64 total, Window o, i64 side) {
  const i64 n = (i64)blockIdx.x*blockDim.x + threadIdx.x, D = 2*o.m + 1, plane = o.H*o.W;
  if (n >= total) return;
  const int x = n % o.W, y = n/o.W % o.H, H = o.H, W = o.W, K = o.K, dil = o.dil, stride = o.stride, dp = side*o.dp;
  const i64 map = n/plane;
  grad += map/o.C*D*D*o.oH*o.oW;
  float sum = 0;
  for (int i = 0; i < D; i++) for (int j = 0; j < D; j++) {
    const int yo = y + (i - (int)o.m)*dp, xo = x + (j - (int)o.m)*dp;       // the partner of this pixel
    if (!inside(yo, xo, H, W)) continue;
    const int y1 = (side > 0 ? y : yo) + o.pad, x1 = (side > 0 ? x : xo) + o.pad;
    const float partner = get(other + map*plane + (i64)yo*W + xo);
    for (int ky = 0; ky < K; ky++) for (int kx = 0; kx < K; kx++) {
      const int ys = y1 - ky*dil, xs = x1 - kx*dil;
      if (ys >= 0 && xs >= 0 && ys % stride == 0 && xs % stride == 0 && inside(ys/stride, xs/stride, o.oH, o.oW))
        sum += partner*get(grad + (((i64)i*D + j)*o.oH + ys/stride)*o.oW + xs/stride);
    }
  }
  put(out + n, sum);
}
