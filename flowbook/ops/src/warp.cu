// Warping and its gradients on a GPU. Explained in nbs/ops/07_cuda_source.ipynb

// ---- sample
struct Corner { i64 at; float w; bool in; };
struct Sample { float tx, ty, keep; bool any; Corner c[4]; };   // upper left, upper right, lower left, lower right

__device__ __forceinline__ Sample sample(const float* flow, i64 plane, int y, int x, int H, int W, bool use_mask) {
  const float ix = W > 1 ? x + flow[0] : 0.f, iy = H > 1 ? y + flow[plane] : 0.f;   // a side of one pixel holds every position
  Sample s = {ix - floorf(ix), iy - floorf(iy), 0.f, ix > -1 && ix < W && iy > -1 && iy < H};
  if (!s.any) return s;                            // NaN and far away too
  float seen = 0;
  EACH(k, 4) {
    const int cx = (int)floorf(ix) + k % 2, cy = (int)floorf(iy) + k/2;
    s.c[k].in = inside(cy, cx, H, W);
    s.c[k].at = s.c[k].in ? (i64)cy*W + cx : 0;
    s.c[k].w = s.c[k].in ? (k % 2 ? s.tx : 1 - s.tx)*(k/2 ? s.ty : 1 - s.ty) : 0.f;
    seen += s.c[k].w;
  }
  s.keep = !use_mask || seen > .9999f;
  return s;
}

// ---- forward
KERNEL(warp, 256)(const T* x, const float* flow, T* out, i64 total, i64 C, i64 H, i64 W, i64 use_mask) {
  const i64 n = (i64)blockIdx.x*32 + threadIdx.x, plane = H*W, batch = n/plane, p = n % plane;
  if (n >= total) return;
  const Sample s = sample(flow + 2*batch*plane + p, plane, p/W, p % W, H, W, use_mask);
  for (i64 c = threadIdx.y; c < C; c += blockDim.y) {
    const T* map = x + (batch*C + c)*plane;
    float v = 0;
    if (s.any && s.keep) EACH(k, 4) if (s.c[k].in) v += s.c[k].w*get(map + s.c[k].at);
    put(out + (batch*C + c)*plane + p, v);
  }
}

// ---- backward
KERNEL(warp_back, 256)(const T* grad, const T* x, const float* flow, float* gx, float* gflow, i64 total, i64 C, i64 H, i64 W, i64 use_mask) {
  __shared__ float sums[2][8][32];
  const i64 n = (i64)blockIdx.x*32 + threadIdx.x, plane = H*W, batch = n/plane, p = n % plane;
  const int tx = threadIdx.x, ty = threadIdx.y;
  float du = 0, dv = 0;
  if (n < total) {
    const Sample s = sample(flow + 2*batch*plane + p, plane, p/W, p % W, H, W, use_mask);
    if (s.any && s.keep) for (i64 c = ty; c < C; c += 8) {
      const i64 map = (batch*C + c)*plane;
      const float g = get(grad + map + p);
      float v[4];
      EACH(k, 4) {
        v[k] = s.c[k].in ? get(x + map + s.c[k].at) : 0.f;
        if (s.c[k].in) atomicAdd(gx + map + s.c[k].at, g*s.c[k].w);
      }
      du += g*((v[1] - v[0])*(1 - s.ty) + (v[3] - v[2])*s.ty);
      dv += g*((v[2] - v[0])*(1 - s.tx) + (v[3] - v[1])*s.tx);
    }
  }
  sums[0][ty][tx] = du; sums[1][ty][tx] = dv;
  __syncthreads();
  if (ty > 1 || n >= total) return;                // one row of threads for each component
  float all = 0;
  EACH(k, 8) all += sums[ty][k][tx];
  gflow[(2*batch + ty)*plane + p] = (ty ? H : W) > 1 ? all : 0.f;
}
