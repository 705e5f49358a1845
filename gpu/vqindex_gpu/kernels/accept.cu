// uses: common.cuh
// Converts a caller's rows, of any real type and any strides, to float32 rows, and finds values that are not finite.
// One thread converts one value.
//
// VQ_FLOATS  whether values are floats; if not, they are integers
// VQ_SIGNED  whether integers are signed
// VQ_BYTES   bytes of a value
//
// Conversions round to nearest, as the host's do. Strides are counted in values. `out` is null if the caller's rows can
// be used as they are. `first_bad` starts with all bits set and receives the first place, counted along rows, of a
// value that is not a finite float32.

#if VQ_FLOATS
#if VQ_BYTES == 2
typedef unsigned short vq_value;
__device__ __forceinline__ float vq_to_float(vq_value half) {
  const u32 sign = (u32)half >> 15 << 31, exponent = half >> 10 & 31, rest = half & 1023;
  if (exponent == 0) {  // subnormal: a multiple of 2^-24
    const float small = __fmul_rn((float)(int)rest, __uint_as_float(0x33800000u));
    return __uint_as_float(__float_as_uint(small) | sign);
  }
  return __uint_as_float(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | rest << 13);
}
#elif VQ_BYTES == 4
typedef float vq_value;
__device__ __forceinline__ float vq_to_float(vq_value v) { return v; }
#else
typedef double vq_value;
__device__ __forceinline__ float vq_to_float(vq_value v) { return __double2float_rn(v); }
#endif
#elif VQ_BYTES == 8 && !VQ_SIGNED
typedef u64 vq_value;
__device__ __forceinline__ float vq_to_float(vq_value v) { return __ull2float_rn(v); }
#else
#if VQ_BYTES == 8
typedef i64 vq_value;
#elif VQ_BYTES == 4 && VQ_SIGNED
typedef int vq_value;
#elif VQ_BYTES == 4
typedef u32 vq_value;
#elif VQ_BYTES == 2 && VQ_SIGNED
typedef short vq_value;
#elif VQ_BYTES == 2
typedef unsigned short vq_value;
#elif VQ_SIGNED
typedef signed char vq_value;
#else
typedef u8 vq_value;
#endif
__device__ __forceinline__ float vq_to_float(vq_value v) { return __ll2float_rn((i64)v); }
#endif

VQ_KERNEL(VQ_THREADS)
vq_accept(const vq_value* source, i64 row_stride, i64 column_stride, i64 rows, int dim, float* out, u64* first_bad) {
  const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = (i64)(index / dim), column = (i64)(index % dim);
  if (row >= rows) return;
  const float v = vq_to_float(source[row * row_stride + column * column_stride]);
  if (out) out[index] = v;
  if ((__float_as_uint(v) & 0x7f800000u) == 0x7f800000u) atomicMin(first_bad, index);
}
