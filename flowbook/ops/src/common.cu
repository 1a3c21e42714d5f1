// What all CUDA kernels share: the platform, or an emulation of it, and the type DTYPE. Explained in nbs/ops/07_cuda_source.ipynb

// ---- platform
#undef SHARED
#ifdef FLOWBOOK_EMULATED
#define SHARED(type, name) type* name = (type*)emulated_shared
#else
#define SHARED(type, name) extern __shared__ float4 flowbook_shared[]; type* name = (type*)flowbook_shared
__device__ __forceinline__ float half_to_float(unsigned short v) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v)); return f; }
__device__ __forceinline__ unsigned short float_to_half(float f) { unsigned short v; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v) : "f"(f)); return v; }
#endif

// ---- types
#undef KERNEL
#undef EACH
#undef PASTE
#undef PASTE_
#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads, 1) PASTE(name, DTYPE)
#define EACH(i, count) _Pragma("unroll") for (int i = 0; i < count; i++)
typedef long long i64;
enum { f32, f16, bf16 };
constexpr int dtype = DTYPE;
template<int D> struct Store { typedef unsigned short type; };
template<> struct Store<f32> { typedef float type; };
typedef Store<dtype>::type T;              // what memory holds; all arithmetic is float

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(unsigned short v) { return dtype == bf16 ? __uint_as_float((unsigned)v << 16) : half_to_float(v); }
template<class S> __device__ __forceinline__ float get(const S* p) { return widen(*p); }
__device__ __forceinline__ void put(float* p, float v) { *p = v; }
__device__ __forceinline__ void put(unsigned short* p, float v) {
  const unsigned u = __float_as_uint(v);   // bfloat16: to nearest, ties to even; a NaN stays one
  *p = dtype == f16 ? float_to_half(v) : v != v ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
__device__ __forceinline__ bool inside(i64 y, i64 x, i64 h, i64 w) { return y >= 0 && y < h && x >= 0 && x < w; }
