// The instructions of the tensor-core kernels, one function each: matrix products of a warp, loads of their fragments
// from shared memory, asynchronous copies into shared memory, and the fast exponential. Everything here exists from
// compute capability 8.0 on. The CPU build of the kernels (MI_SIMT, tests only) has functions of the same names and
// meaning in simt/tensor_core.h.
//
// Fragments. Lane l of a warp has g = l / 4 and t = l % 4. A step of a product takes 32 bytes of each point: 16
// coordinates of a half type, 8 of float.
//   a[4]  words of A: row g bytes 4t.., row g + 8 bytes 4t.., row g bytes 16 + 4t.., row g + 8 bytes 16 + 4t..
//   b[2]  words of B: column g bytes 4t.., column g bytes 16 + 4t..
//   c[4]  of the 16 x 8 results: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// So fragments of all element types are loaded alike.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace mi::cuda {

// What one copy, or one row of an 8 x 8 matrix of halves, is: 16 bytes.
struct alignas(16) Unit {
  uint32_t words[4];
};

}  // namespace mi::cuda

#ifdef MI_SIMT
#include "simt/tensor_core.h"
#else

namespace mi::cuda {

// A place in shared memory, as the instructions name it: 32 bits, where a pointer would take two registers.
struct SharedUnit {
  uint32_t address;
};

template <typename Tile>
__device__ __forceinline__ SharedUnit unit_at(const Tile& tile, int row, int unit) {
  return {static_cast<uint32_t>(__cvta_generic_to_shared(&tile(0, 0))) +
          static_cast<uint32_t>(Tile::offset(row, unit)) * static_cast<uint32_t>(sizeof(Unit))};
}

// Four 8 x 8 matrices of 16-bit elements. Lane l names row l % 8 of matrix l / 8; word m of it gets elements 2t and
// 2t + 1 of row g of matrix m.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], SharedUnit row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(row.address)
               : "memory");
}

// The same of the transposed matrices: word m gets rows 2t and 2t + 1 of column g.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&words)[4], SharedUnit row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(row.address)
               : "memory");
}

// c += A B. The element type is that of the first argument's pointee.
__device__ __forceinline__ void mma(__nv_bfloat16, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma(__half, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Words are TF32 numbers: see to_tf32.
__device__ __forceinline__ void mma(float, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rounds to the 11 significant bits of TF32, ties away from zero; the other bits are 0.
__device__ __forceinline__ uint32_t to_tf32(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}

// Two numbers, rounded to the element type, as one word: the first in its low half.
__device__ __forceinline__ uint32_t pack(__nv_bfloat16, float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
__device__ __forceinline__ uint32_t pack(__half, float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// 2^v, to about 2 units in the last place; 0 where that is below the normal numbers.
__device__ __forceinline__ float exp2_fast(float v) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
  return result;
}

// Begins to copy a unit from device to shared memory, or to write zeros there if it does not exist; `from` is aligned
// and readable in any case. The copies that a thread has begun since its last copy_commit are a group.
__device__ __forceinline__ void copy_async(SharedUnit to, const Unit* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to.address), "l"(from), "r"(exists ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all of this thread's groups but the newest kLeft. What other threads copied is there after a barrier.
template <int kLeft>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kLeft) : "memory");
}

}  // namespace mi::cuda

#endif
