// Only names that torch 2.11 has: later headers add more.
//
// Matrix products go through torch's addmm for plain CPU tensors over the kernel's own memory: no copy, no dispatcher,
// a microsecond of overhead a call, and whatever BLAS this torch was built with.
#include "common/cpu/host.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <sys/mman.h>
#if defined(MI_WITH_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace mi {
namespace {

// A matrix over memory that somebody else owns.
class View {
 public:
  template <class T>
  View(const T* data, bool transposed, int64_t rows, int64_t cols, int64_t ld) {
    const int64_t sizes[2] = {rows, cols};
    const int64_t strides[2] = {transposed ? 1 : ld, transposed ? ld : 1};
    const int32_t dtype = sizeof(T) == sizeof(double) ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(const_cast<T*>(data), 2, sizes, strides, 0, dtype,
                                                              aoti_torch_device_type_cpu(), 0, &handle_));
  }
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  ~View() { aoti_torch_delete_tensor_object(handle_); }
  AtenTensorHandle get() const { return handle_; }

 private:
  AtenTensorHandle handle_ = nullptr;
};

template <class T>
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
          int64_t ldb, T beta, T* c, int64_t ldc) {
  const View left(a, trans_a, m, k, lda), right(b, trans_b, k, n, ldb), out(c, false, m, n, ldc);
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), left.get(), right.get(),
                                                  static_cast<double>(beta), static_cast<double>(alpha)));
}

void parallel(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) body(context, task);
  });
}

// One block, lent to one caller at a time and kept between calls; a second caller at the same time gets its own.
class Lender {
 public:
  ~Lender() { std::free(kept_); }

  void* borrow(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (lent_) return allocate(bytes);
    if (size_ < bytes) {
      std::free(kept_);
      kept_ = allocate(bytes);
      size_ = kept_ == nullptr ? 0 : bytes;
    }
    lent_ = kept_ != nullptr;
    return kept_;
  }

  void give_back(void* memory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (memory == kept_)
      lent_ = false;
    else
      std::free(memory);
  }

 private:
  static void* allocate(std::size_t bytes) {
    constexpr std::size_t kHugePage = std::size_t{2} << 20;
    void* memory = nullptr;
    if (posix_memalign(&memory, kHugePage, bytes) != 0) return nullptr;
#if defined(MADV_HUGEPAGE)
    madvise(memory, bytes, MADV_HUGEPAGE);  // a hint: 512 times fewer page faults where it is taken
#endif
    return memory;
  }

  std::mutex mutex_;
  void* kept_ = nullptr;
  std::size_t size_ = 0;
  bool lent_ = false;
};

Lender& lender() {
  static Lender lender;
  return lender;
}

void* borrow(int64_t bytes) { return lender().borrow(static_cast<std::size_t>(bytes)); }
void give_back(void* memory) { lender().give_back(memory); }

#if defined(MI_WITH_AMX)
// The CPU has bfloat16 tiles and AVX-512's conversions to bfloat16, and the system lets this process use them.
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16Tiles = 1u << 22, kTiles = 1u << 24, kBf16 = 1u << 5;
  if ((d & kBf16Tiles) == 0 || (d & kTiles) == 0) return false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & kBf16) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

SimdLevel detect() {
#if defined(MI_WITH_X86_LEVELS)
  __builtin_cpu_init();
  SimdLevel level = SimdLevel::baseline;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    level = SimdLevel::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
      level = SimdLevel::avx512;
#if defined(MI_WITH_AMX)
    if (level == SimdLevel::avx512 && has_amx()) level = SimdLevel::amx;
#endif
  }
  if (const char* wanted = std::getenv("MI_ESTIMATORS_SIMD"))
    for (const SimdLevel candidate : {SimdLevel::baseline, SimdLevel::avx2, SimdLevel::avx512, SimdLevel::amx})
      if (std::strcmp(wanted, name_of(candidate)) == 0) level = std::min(level, candidate);
  return level;
#else
  return SimdLevel::baseline;
#endif
}

}  // namespace

SimdLevel simd_level() {
  static const SimdLevel level = detect();
  return level;
}

const char* name_of(SimdLevel level) {
  switch (level) {
    case SimdLevel::amx:
      return "amx";
    case SimdLevel::avx512:
      return "avx512";
    case SimdLevel::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

CpuRuntime torch_runtime() {
  return {gemm<float>, gemm<double>, parallel, static_cast<int64_t>(torch::stable::get_num_threads()),
          borrow,      give_back};
}

}  // namespace mi
