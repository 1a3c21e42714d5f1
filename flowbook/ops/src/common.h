// What all CPU kernels share: vectors, float types, threads. Explained in nbs/ops/02_build.ipynb
#pragma once

// ---- vectors
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
typedef int64_t i64;
#if defined(_WIN32)   // what Python may call; elsewhere everything is visible
#define API extern "C" __declspec(dllexport)
#else
#define API extern "C"
#endif

// W floats travel in one register; ROWS rows of pixels share what was loaded: as many as there are registers for their sums
#if defined(__AVX512F__)
enum { W = 16, ROWS = 3 };
#elif defined(__AVX2__)
enum { W = 8, ROWS = 2 };
#else
enum { W = 4, ROWS = 1 };
#endif

// ---- floats
typedef float vec __attribute__((vector_size(4*W)));
typedef int32_t ivec __attribute__((vector_size(4*W)));
typedef float vec_u __attribute__((vector_size(4*W), aligned(4), may_alias));
static inline vec load(const float *p) { return *(const vec_u *)p; }
static inline void store(float *p, vec v) { *(vec_u *)p = v; }
static inline vec all(float x) { vec v; for (int i = 0; i < W; i++) v[i] = x; return v; }

// the other float types: half the bytes, the same sums
struct bf16 { uint16_t bits; };
static inline float get(float x) { return x; }
static inline float get(bf16 x) { uint32_t u = (uint32_t)x.bits << 16; float f; memcpy(&f, &u, 4); return f; }
static inline void put(float *p, float x) { *p = x; }
static inline void put(bf16 *p, float x) {   // to the nearest, ties to even; NaN stays NaN
  uint32_t u;
  memcpy(&u, &x, 4);
  p->bits = x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
#if defined(__FLT16_MAX__)
#if defined(__aarch64__) && !defined(__clang__) && __GNUC__ < 13
typedef __fp16 fp16;   // what GCC calls it in C++ before version 13
#else
typedef _Float16 fp16;
#endif
static inline float get(fp16 x) { return (float)x; }
static inline void put(fp16 *p, float x) { *p = (fp16)x; }
#else
typedef bf16 fp16;   // never used: see flowbook_has_fp16
#endif

// ---- threads
// PyTorch's own threads, once Python has found the function that starts them, `GOMP_parallel`: two pools would fight for the cores, because idle threads of OpenMP go on spinning for a while
typedef void (*Start)(void (*)(void *), void *, unsigned, unsigned);
static std::atomic<Start> shared_pool(nullptr);
API void flowbook_share_pool(void *start) { shared_pool = (Start)start; }

// f(item, scratch) for all items below n, begun in this order; each thread has `floats` of scratch of its own
template<class F> static void parallel(i64 n, int threads, size_t floats, F f) {
  static constexpr std::align_val_t line{64};   // of the cache
  std::atomic<i64> next(0);
  auto work = [&] {
    auto give_back = [](float *p) { ::operator delete(p, line); };
    std::unique_ptr<float, decltype(give_back)> scratch((float *)::operator new(4*floats + 64, line), give_back);
    for (i64 i; (i = next++) < n;) f(i, scratch.get());
  };
  threads = (int)std::min<i64>(threads, n);
  if (threads < 2) return work();
  if (Start start = shared_pool) return start([](void *p) { (*(decltype(work) *)p)(); }, &work, threads, 0);
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(work);
  work();
  for (auto &t : others) t.join();
}

// do a call for the float type that Python counts as 0, 1 or 2
#define FOR_TYPE(type, CALL) do { if (type == 0) { typedef float T; CALL; } else if (type == 1) { typedef bf16 T; CALL; } else { typedef fp16 T; CALL; } } while (0)
#if defined(__FLT16_MAX__)
API int flowbook_has_fp16() { return 1; }
#else
API int flowbook_has_fp16() { return 0; }
#endif
