// The scaled domain and the Hadamard rotation of one vector by one block, as defined in vqindex/codes/estimator.py and
// vqindex/codes/rotation.py.
//
// The vector lies in shared memory with one spare word after every 16 words. Radix-16 passes then have no bank
// conflicts. A pass computes up to four levels of butterflies, because a thread holds 16 coordinates, called an item,
// in registers. The first pass of a round reads coordinates in the permuted order from one buffer and writes them to
// the other buffer. Later passes of the round work in place.

#define VQ_AT(i) ((i) + ((i) >> 4))

struct vq_rotation {
  int dim;
  int stride;           // of the permutation between rounds
  const u32* signs;     // (3, ceil(dim / 32)): bit j of a round is set where coordinate j changes its sign
  const float* scales;  // scales[m] = fl(1 / sqrt(2^m))
};

struct vq_scaled {
  double norm2;
  int shift;
};

// Returns log2 of the size of the chunk that holds coordinate p. Chunks are the binary digits of d, the largest first.
__device__ __forceinline__ int vq_chunk_log(int p, int d) { return 31 - __clz(p ^ d); }

// Computes sum64 of estimator.py with the first warp; lane 0 has the result. term(j) must be exact in float64.
template <class Term>
__device__ __forceinline__ double vq_sum64(int count, Term term) {
  double sum = 0.0;
  for (int j = threadIdx.x % 32; j < count; j += 32) sum = __dadd_rn(sum, term(j));
  for (int half = 16; half; half /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(VQ_FULL, sum, half));
  return sum;
}

// Brings a row into the scaled domain. Writes x' to `to`, and |x'|^2 and the shift to `out`; both are shared memory.
__device__ __forceinline__ void vq_to_scaled(const float* row, int d, float* to, float* scratch, vq_scaled* out) {
  const float tiny = __uint_as_float(0x00800000u), cut = __uint_as_float(0x30000000u);  // 2^-126, 2^-31
  float peak = 0.0f;
  for (int j = threadIdx.x; j < d; j += blockDim.x) {
    float v = row[j];
    to[VQ_AT(j)] = v;
    peak = fmaxf(peak, fabsf(v));
  }
  peak = vq_block_max(peak, scratch);
  int exponent = (int)(__float_as_uint(peak) >> 23);  // biased; 0 for a zero vector, for which any power works
  float power = __uint_as_float((u32)(255 - (exponent ? exponent : 1)) << 23);
  for (int j = threadIdx.x; j < d; j += blockDim.x) {
    float v = to[VQ_AT(j)], w = __fmul_rn(v, power);
    to[VQ_AT(j)] = fabsf(v) < tiny || fabsf(w) < cut ? 0.0f : w;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    double norm2 = vq_sum64(d, [&](int j) { return __dmul_rn((double)to[VQ_AT(j)], (double)to[VQ_AT(j)]); });
    if (threadIdx.x == 0) {
      out->norm2 = norm2;
      out->shift = exponent ? exponent - 128 : 0;
    }
  }
  __syncthreads();
}

// Computes the first `levels` levels of butterflies in registers: half-widths 1, 2, 4, 8.
__device__ __forceinline__ void vq_butterflies(float (&v)[16], int levels) {
#pragma unroll
  for (int level = 0; level < 4; ++level) {
    if (level >= levels) break;
#pragma unroll
    for (int e = 0; e < 16; ++e) {
      if (e >> level & 1) continue;
      float a = v[e], b = v[e | 1 << level];
      v[e] = __fadd_rn(a, b);
      v[e | 1 << level] = __fsub_rn(a, b);
    }
  }
}

// Returns coordinate `source` of the last round's result, before the permutation, times the scale of its chunk.
__device__ __forceinline__ float vq_scaled_coordinate(const vq_rotation& r, const float* from, int source) {
  return __fmul_rn(from[VQ_AT(source)], r.scales[vq_chunk_log(source, r.dim)]);
}

// Runs the first pass of a round: permutation (not in the first round), signs, half-widths 1 to 8.
__device__ __forceinline__ void vq_first_pass(const vq_rotation& r, int round, const float* from, float* to) {
  const int d = r.dim, step = round ? r.stride : 1;
  const u32* signs = r.signs + round * ((d + 31) / 32);
  for (int item = threadIdx.x; item < (d + 15) / 16; item += blockDim.x) {
    float v[16];
    u32 flip = signs[item / 2] >> (item % 2 * 16);
    int source = (int)((u32)(16 * item) * (u32)step % (u32)d);
#pragma unroll
    for (int e = 0; e < 16; ++e) {
      v[e] = 0.0f;
      if (16 * item + e < d) {
        float x = round ? vq_scaled_coordinate(r, from, source) : from[VQ_AT(source)];
        v[e] = __uint_as_float(__float_as_uint(x) ^ (flip >> e & 1) << 31);
      }
      source += step;
      if (source >= d) source -= d;
    }
    if (16 * item + 16 <= d) {
      vq_butterflies(v, 4);
    } else {  // the last item holds the chunks of 8, 4, 2 and 1
#pragma unroll
      for (int level = 0; level < 3; ++level) {
#pragma unroll
        for (int e = 0; e < 16; ++e) {
          if (e >> level & 1 || 16 * item + e >= d || vq_chunk_log(16 * item + e, d) <= level) continue;
          float a = v[e], b = v[e | 1 << level];
          v[e] = __fadd_rn(a, b);
          v[e | 1 << level] = __fsub_rn(a, b);
        }
      }
    }
#pragma unroll
    for (int e = 0; e < 16; ++e)
      if (16 * item + e < d) to[VQ_AT(16 * item + e)] = v[e];
  }
}

// Runs a later pass in place: half-widths 2^low to 2^(low + 3), or fewer in chunks that have fewer.
__device__ __forceinline__ void vq_next_pass(const vq_rotation& r, int low, float* buffer) {
  const int d = r.dim;
  for (int item = threadIdx.x; item < d / 16; item += blockDim.x) {
    const int log = vq_chunk_log(16 * item, d), levels = log - low < 4 ? log - low : 4;
    if (levels <= 0) continue;
    const int start = d >> (log + 1) << (log + 1), t = item - start / 16;
    // Element e is member e mod 2^levels of butterfly e div 2^levels of this item.
    const int apart = 1 << low >> (4 - levels);
    const int base = start + (levels == 4 ? (t >> low << (low + 4)) + (t & ((1 << low) - 1)) : t);
    float v[16];
#pragma unroll
    for (int e = 0; e < 16; ++e)
      v[e] = buffer[VQ_AT(base + ((e & ((1 << levels) - 1)) << low) + (e >> levels) * apart)];
    vq_butterflies(v, levels);
#pragma unroll
    for (int e = 0; e < 16; ++e)
      buffer[VQ_AT(base + ((e & ((1 << levels) - 1)) << low) + (e >> levels) * apart)] = v[e];
  }
}

// Rotates the vector in `a`. The result P x is in `a`, in order; `b` is the second buffer.
__device__ __forceinline__ void vq_rotate(const vq_rotation& r, float* a, float* b) {
  float *from = a, *to = b;
  for (int round = 0; round < 3; ++round) {
    vq_first_pass(r, round, from, to);
    __syncthreads();
    for (int low = 4; 1 << low < r.dim; low += 4) {
      vq_next_pass(r, low, to);
      __syncthreads();
    }
    float* other = from;
    from = to;
    to = other;
  }
  // Three rounds end in b, so the last permutation can write to a.
  for (int j = threadIdx.x; j < r.dim; j += blockDim.x)
    a[VQ_AT(j)] = vq_scaled_coordinate(r, from, (int)((u32)j * (u32)r.stride % (u32)r.dim));
  __syncthreads();
}

// Rounds a scalar to float32. Results that would be subnormal become 0.
__device__ __forceinline__ float vq_flush(double v) {
  float f = __double2float_rn(v);
  return fabsf(f) < __uint_as_float(0x00800000u) ? 0.0f : f;
}

// Returns v 2^shift. The product is exact, because float64 has enough range.
__device__ __forceinline__ double vq_ldexp(double v, int shift) {
  return __dmul_rn(v, __longlong_as_double((i64)(1023 + shift) << 52));
}

// Converts a length of the scaled domain to the metric's unit, which is |x| for cosine.
__device__ __forceinline__ float vq_from_scaled(double v, double norm2, int shift, int cosine) {
  if (cosine) return norm2 > 0.0 ? vq_flush(__ddiv_rn(v, __dsqrt_rn(norm2))) : 0.0f;
  return vq_flush(vq_ldexp(v, shift));
}

// Returns |x|^2 / <y, yhat> (for cosine |x| / <y, yhat>), or 0 where <y, yhat> is not positive.
__device__ __forceinline__ float vq_rescale(double dot, double norm2, int shift, int cosine) {
  if (!(dot > 0.0)) return 0.0f;
  if (cosine) return vq_flush(__ddiv_rn(__dsqrt_rn(norm2), dot));
  return vq_flush(vq_ldexp(__ddiv_rn(norm2, dot), shift));
}

// Packs fields of `bits` bits, one in each byte, into a row (vqindex/codes/packing.py).
//
// A trellis with sign bits stores other fields than those of its path: the lowest bit of a field flips the highest bit
// of the field `warmup_fields` places later (`Trellis.swapped`). `warmup_fields` is 0 for all other codes.
__device__ __forceinline__ void vq_pack(const u8* fields, int count, int bits, int warmup_fields, u8* row) {
  const int bytes = (count * bits + 7) / 8;
  for (int group = threadIdx.x; group * 8 < count; group += blockDim.x) {
    u64 word = 0;
    for (int i = 0; i < 8 && group * 8 + i < count; ++i) {
      const int j = group * 8 + i;
      u32 field = fields[j];
      if (warmup_fields && j >= warmup_fields) field ^= (fields[j - warmup_fields] & 1u) << (bits - 1);
      word |= (u64)field << (i * bits);
    }
    for (int i = 0; i < bits && group * bits + i < bytes; ++i) row[group * bits + i] = (u8)(word >> (8 * i));
  }
}
