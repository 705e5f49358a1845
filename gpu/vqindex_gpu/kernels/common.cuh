// The part that every kernel includes: types, instructions that CUDA C++ has no name for, and helpers for blocks.
//
// All PTX of the engine is in the vq_* functions of this file. tests/emulator/cuda.hpp has a CPU twin of each.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define VQ_FULL 0xffffffffu  // the mask of a full warp
#define VQ_MINUS_INF __uint_as_float(0xff800000u)
// Rows of a tile. The scan writes one maximum for each tile, a selection has one 64-bit word for each tile, and the
// stored layout keeps sign bits in blocks of the same size.
#define VQ_TILE_ROWS 64
#define VQ_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

#ifndef VQ_EMULATED

#define VQ_DYNAMIC_SHARED(name) extern __shared__ uint4 name[]

// Picks four bytes of {a, b} by the selectors in the low nibbles of s. Every selector must be below 8, because PTX
// would replicate a sign for the others.
__device__ __forceinline__ u32 vq_permute(u32 a, u32 b, u32 s) {
  u32 out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(s));
  return out;
}

// Computes c += A B for int8 A (16 x 32, row-major) and int8 B (32 x 8, column-major).
__device__ __forceinline__ void vq_mma_s8(int (&c)[4], uint4 a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// Computes c += A B for int8 A and uint8 B.
__device__ __forceinline__ void vq_mma_u8(int (&c)[4], uint4 a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// Loads 16 bytes past the first-level cache. Codes are read only once; the cache keeps the queries instead.
__device__ __forceinline__ uint4 vq_load_once(const uint4* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

#endif

// Returns the largest value of a block to every thread. `scratch` is shared memory with one float for each warp; the
// caller may reuse it after the call.
__device__ __forceinline__ float vq_block_max(float v, float* scratch) {
  for (int half = 16; half; half /= 2) v = fmaxf(v, __shfl_xor_sync(VQ_FULL, v, half));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  v = scratch[0];
  for (u32 warp = 1; warp < blockDim.x / 32; ++warp) v = fmaxf(v, scratch[warp]);
  __syncthreads();
  return v;
}
