// Questions about the GPU that Python asks.
#include "simt.h"

XM_API const char* xm_cuda_error(int code) {
#ifdef __CUDACC__
  return cudaGetErrorString(static_cast<cudaError_t>(code));
#else
  return code ? xmsim::emulator::reason() : "no error";
#endif
}

// Copies 16-byte words: the ceiling of what memory gives.
namespace xmsim {

XM_KERNEL(256) void copy_words(const uint4* from, uint4* to, int64_t count) {
  const int64_t all = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += all) to[i] = stream_16(from + i);
}

}  // namespace xmsim

XM_API int xm_cuda_copy(const void* from, void* to, int64_t bytes, int blocks, void* stream) {
  using namespace xmsim;
  return launch(copy_words, {static_cast<unsigned>(blocks), 1, 1}, 256, 0, stream, static_cast<const uint4*>(from),
                static_cast<uint4*>(to), bytes / 16);
}
