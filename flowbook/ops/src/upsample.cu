// Convex upsampling and its gradients on a GPU. Explained in nbs/ops/07_cuda_source.ipynb

// ---- softmax
// The 3x3 coarse vectors around 32 neighbours of a row, times the factor; zeros outside
__device__ __forceinline__ void neighbours(float* near, const float* flow, i64 batch, int y, int x0, int H, int W, int f) {
  for (int t = threadIdx.x + 32*threadIdx.y; t < 204; t += 32*blockDim.y) {
    const int ny = y + t/34 % 3 - 1, nx = x0 + t % 34 - 1;
    near[t] = inside(ny, nx, H, W) ? f*flow[((batch*2 + t/102)*H + ny)*W + nx] : 0.f;
  }
}
// Softmax over nine logits that lie `step` apart
__device__ __forceinline__ void softmax9(float* s, const T* mask, i64 step) {
  float top = get(mask), sum = 0;
  EACH(k, 9) s[k] = get(mask + k*step);
  EACH(k, 9) top = fmaxf(top, s[k]);
  EACH(k, 9) sum += s[k] = expf(s[k] - top);
  EACH(k, 9) s[k] /= sum;
}

// ---- forward
template<class O> __device__ __forceinline__ void upsample(const float* flow, const T* mask, O* out, int H, int W, int f) {
  SHARED(float, near);                             // (2,3,34) coarse vectors, then (2,32,f+1) fine ones: f+1 keeps the lanes apart
  float* fine = near + 204;
  const int xs = (W + 31)/32, line = 32*(f + 1);
  const i64 n = blockIdx.x, batch = n/xs/f/H, plane = (i64)H*W;
  const int x0 = n % xs*32, i = n/xs % f, y = n/xs/f % H, x = x0 + threadIdx.x;
  neighbours(near, flow, batch, y, x0, H, W, f);
  __syncthreads();
  if (x < W) for (int j = threadIdx.y; j < f; j += blockDim.y) {
    float s[9], u = 0, v = 0;
    softmax9(s, mask + (batch*9*f*f + i*f + j)*plane + (i64)y*W + x, f*f*plane);
    EACH(k, 9) u += s[k]*near[k/3*34 + k % 3 + threadIdx.x], v += s[k]*near[102 + k/3*34 + k % 3 + threadIdx.x];
    fine[threadIdx.x*(f + 1) + j] = u;
    fine[line + threadIdx.x*(f + 1) + j] = v;
  }
  __syncthreads();
  const int count = min(32, W - x0)*f;             // the fine pixels of this piece lie side by side in memory
  for (int t = threadIdx.x + 32*threadIdx.y; t < 2*count; t += 32*blockDim.y) {
    const int c = t/count, p = t % count;
    put(out + (((batch*2 + c)*H + y)*f + i)*W*f + (i64)x0*f + p, fine[c*line + p/f*(f + 1) + p % f]);
  }
}
#define UPSAMPLE(name, O) KERNEL(name, 256)(const float* flow, const T* mask, O* out, i64 H, i64 W, i64 f) { upsample(flow, mask, out, H, W, f); }

// ---- softmax_back
// One fine pixel: its nine logits' gradients to memory, its share of the nine coarse vectors' gradients to `sum`
__device__ __forceinline__ void softmax_back(float* sum, const T* mask, T* gmask, i64 at, i64 step, float gu, float gv, const float* near) {
  float s[9], d[9], mean = 0;
  softmax9(s, mask + at, step);
  EACH(k, 9) d[k] = gu*near[k/3*34 + k % 3] + gv*near[102 + k/3*34 + k % 3], mean += s[k]*d[k];
  EACH(k, 9) put(gmask + at + k*step, s[k]*(d[k] - mean));
  EACH(k, 9) sum[k] += gu*s[k], sum[9 + k] += gv*s[k];
}

// ---- backward
template<class G> __device__ __forceinline__ void upsample_back(const G* grad, const float* flow, const T* mask, T* gmask, float* parts, int H, int W, int f) {
  SHARED(float, near);                             // (2,3,34) coarse vectors, (2,32,f+1) gradients, (8,18,32) sums of the threads
  float *g = near + 204, *sums = g + 64*(f + 1), sum[18] = {};
  const int xs = (W + 31)/32, line = 32*(f + 1), tx = threadIdx.x, ty = threadIdx.y;
  const i64 n = blockIdx.x, batch = n/xs/H, plane = (i64)H*W;
  const int x0 = n % xs*32, y = n/xs % H, x = x0 + tx, count = min(32, W - x0)*f;
  neighbours(near, flow, batch, y, x0, H, W, f);
  for (int i = 0; i < f; i++) {
    __syncthreads();
    for (int t = tx + 32*ty; t < 2*count; t += 256) {
      const int c = t/count, p = t % count;
      g[c*line + p/f*(f + 1) + p % f] = get(grad + (((batch*2 + c)*H + y)*f + i)*W*f + (i64)x0*f + p);
    }
    __syncthreads();
    if (x < W) for (int j = ty; j < f; j += 8)
      softmax_back(sum, mask, gmask, (batch*9*f*f + i*f + j)*plane + (i64)y*W + x, f*f*plane, g[tx*(f + 1) + j], g[line + tx*(f + 1) + j], near + tx);
  }
  EACH(k, 18) sums[(ty*18 + k)*32 + tx] = sum[k];
  __syncthreads();
  for (int t = tx + 32*ty; t < 18*32; t += 256) if (x0 + t % 32 < W) {
    float all = 0;
    EACH(k, 8) all += sums[k*18*32 + t];
    parts[((batch*18 + t/32)*H + y)*W + x0 + t % 32] = all*f;
  }
}
#define UPSAMPLE_BACK(name, G) KERNEL(name, 256)(const G* grad, const float* flow, const T* mask, T* gmask, float* parts, i64 H, i64 W, i64 f) \
  { upsample_back(grad, flow, mask, gmask, parts, H, W, f); }
