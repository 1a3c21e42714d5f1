// The table of a library built ahead of time: finds a kernel by its name. Explained in nbs/ops/06_nvrtc.ipynb

// ---- table
static const struct { const char* name; const void* kernel; } table[] = {KERNELS};
static const void* find(const char* name) { for (auto& o : table) if (!strcmp(o.name, name)) return o.kernel; return nullptr; }
extern "C" int flowbook_has(const char* name) { return find(name) != nullptr; }
extern "C" int flowbook_launch(const char* name, const unsigned* g, const unsigned* b, unsigned long long shared, void* stream, void** args) {
  return cudaLaunchKernel(find(name), dim3(g[0], g[1], g[2]), dim3(b[0], b[1], b[2]), args, shared, (cudaStream_t)stream);
}
