// uses: common.cuh layout.cuh
// The fused scan: codes to int8 levels in registers, exact integer sums on the tensor cores, keys, and the best key of
// every tile of 64 rows for each query. No decoded vector and no score is written to memory.
//
//     sum lead * level = 256 sum high * level + sum low * level        (lead = 256 high + low; queries.cu)
//     sum c * sign                                                     (VQ_COARSE: the bound of sign_bound.py)
//
// VQ_SHARED=0, for up to eight queries: a warp has a tile to itself and decodes its four groups as it reads them; no
//   shared memory but the trellis's table. The time is that of reading the codes.
//
//      block = 4 warps = 4 tiles:   warp w   [group 0..3] x [8 queries]
//
// VQ_SHARED=1, for batches: a block has a tile. Each warp decodes one group of it for all warps, through two buffers in
//   turn with one barrier a chunk, and multiplies all four by 16 queries of its own.
//
//      block = 4 warps = 1 tile:    warp w   decodes [group w],   [group 0..3] x [queries 16 w .. 16 w + 15]
//
//   Blocks of the same tile follow one another, so all but the first find its codes in the second-level cache.

#define VQ_STEPS (8 / VQ_SLOT)
#define VQ_WARPS 4
#if VQ_SHARED
#define VQ_COLUMNS 2  // groups of eight queries a warp has
#else
#define VQ_COLUMNS 1
#endif

struct vq_sums {
  int high[4][VQ_COLUMNS][4], low[4][VQ_COLUMNS][4];
#if VQ_COARSE
  int coarse[4][VQ_COLUMNS][4];
#endif
};

struct vq_fragment {
  uint4 levels;
#if VQ_TRELLIS
  uint4 signs;  // a level near 0 can have the other sign
#endif
};

#if VQ_TRELLIS
struct vq_table {
  const u8* levels;  // in shared memory
};

// Four levels of a row's 12 bytes, from slot `first` on, and their signs as bytes 1 and -1.
__device__ __forceinline__ u32 vq_four(const vq_table& table, u32 a, u32 b, u32 next, int first, u32& signs) {
  u32 out = 0, positive = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int bit = (first + i) * VQ_SLOT;
    u32 slots = __funnelshift_r(bit < 32 ? a : b, bit < 32 ? b : next, bit % 32);
#if VQ_SLOT == VQ_BITS
    u32 window = slots & ((1 << VQ_WINDOW) - 1);
#else
    u32 window = (slots & 7) | (slots >> 1 & 0x38) | (slots >> 2 & 0x1c0);  // three bits in a slot of four
#endif
    out |= (u32)table.levels[window] << (8 * i);
    positive |= ((window >> (VQ_WINDOW - 1) ^ window) & 1) << (8 * i);  // sign_of_window of trellis.py
  }
  signs = 0x01010101u | (positive ^ 0x01010101u) * 255u;
  return out;
}

// Fragment A of step s: eight coordinates of rows g and g + 8; `next` are the four bytes that follow in each row.
__device__ __forceinline__ vq_fragment vq_decode(const vq_table& table, uint4 v, uint2 next, int s) {
  vq_fragment out;
  out.levels.x = vq_four(table, v.x, v.y, next.x, 8 * s, out.signs.x);
  out.levels.y = vq_four(table, v.z, v.w, next.y, 8 * s, out.signs.y);
  out.levels.z = vq_four(table, v.x, v.y, next.x, 8 * s + 4, out.signs.z);
  out.levels.w = vq_four(table, v.z, v.w, next.y, 8 * s + 4, out.signs.w);
  return out;
}
#else
#define VQ_PHASES (4 / VQ_SLOT)
struct vq_table {
  u32 levels[4];  // sixteen bytes
};

// Levels of four fields, one in each low nibble.
__device__ __forceinline__ u32 vq_four(const vq_table& table, u32 fields) {
#if VQ_BITS <= 3
  return vq_permute(table.levels[0], table.levels[1], fields & 0x7777);
#else
  u32 low = vq_permute(table.levels[0], table.levels[1], fields & 0x7777);
  u32 high = vq_permute(table.levels[2], table.levels[3], fields & 0x7777);
  return vq_permute(low, high, 0x3210 | (fields & 0x8888) >> 1);
#endif
}

// Fragment A of step s: phase s mod VQ_PHASES of word s div VQ_PHASES. A phase is a slot of every nibble.
__device__ __forceinline__ vq_fragment vq_decode(const vq_table& table, uint4 v, uint2, int s) {
  const u32 mask = 0x11111111u * ((1 << VQ_SLOT) - 1);
  u32 a = (s / VQ_PHASES ? v.y : v.x) >> (s % VQ_PHASES * VQ_SLOT) & mask;
  u32 b = (s / VQ_PHASES ? v.w : v.z) >> (s % VQ_PHASES * VQ_SLOT) & mask;
  return {make_uint4(vq_four(table, a), vq_four(table, b), vq_four(table, a >> 16), vq_four(table, b >> 16))};
}

// Bytes -1 where levels are negative, 1 elsewhere.
__device__ __forceinline__ u32 vq_sign4(u32 levels) {
  u32 negative = levels >> 7 & 0x01010101u;
  return 0x01010101u | negative * 255u;
}
#endif

// The signs of a fragment: of a scalar code those of its levels, so they need not be kept.
__device__ __forceinline__ uint4 vq_signs(const vq_fragment& a) {
#if VQ_TRELLIS
  return a.signs;
#else
  return make_uint4(vq_sign4(a.levels.x), vq_sign4(a.levels.y), vq_sign4(a.levels.z), vq_sign4(a.levels.w));
#endif
}

// What follows a lane's bytes in its rows: those of the next lane, for the last one those of the next chunk.
__device__ __forceinline__ uint2 vq_following(uint4 now, uint4 next) {
#if VQ_TRELLIS
  const int lane = threadIdx.x % 32, source = lane % 4 < 3 ? lane + 1 : lane;
  u32 x = __shfl_sync(VQ_FULL, now.x, source), z = __shfl_sync(VQ_FULL, now.z, source);
  u32 far_x = __shfl_sync(VQ_FULL, next.x, lane & ~3), far_z = __shfl_sync(VQ_FULL, next.z, lane & ~3);
  return lane % 4 < 3 ? make_uint2(x, z) : make_uint2(far_x, far_z);
#else
  return make_uint2(0, 0);
#endif
}

__device__ __forceinline__ uint4 vq_chunk(const uint4* group, int chunk, int chunks) {
  return chunk < chunks ? vq_load_once(group + (u64)chunk * 32 + threadIdx.x % 32) : make_uint4(0, 0, 0, 0);
}

// One step of one group with the queries of this warp.
__device__ __forceinline__ void vq_multiply(vq_sums& sums, int group, const vq_fragment& a, const uint4* b,
                                            const uint2* c, u64 column_stride) {
#pragma unroll
  for (int column = 0; column < VQ_COLUMNS; ++column) {
    uint4 q = b[column * column_stride];
    vq_mma_s8(sums.high[group][column], a.levels, q.x, q.y);
    vq_mma_u8(sums.low[group][column], a.levels, q.z, q.w);
#if VQ_COARSE
    uint2 small = c[column * column_stride];
    vq_mma_s8(sums.coarse[group][column], vq_signs(a), small.x, small.y);
#endif
  }
}

// Sums to keys, and the best of the tile's 64 for each of the warp's queries.
__device__ __forceinline__ void vq_write_maxima(const vq_sums& sums, const vq_segment& segment, i64 tile,
                                                const vq_query* queries, int first_query, int count, int l2,
                                                const u64* allowed, i64 allowed_stride, float* maxima, i64 stride) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int column = 0; column < VQ_COLUMNS; ++column) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int query = first_query + column * 8 + lane % 4 * 2 + odd;
      const vq_query q = query < count ? queries[query] : vq_query{0, 0, 0, 0, 0};
      u64 may = ~0ull;
      if (allowed && query < count) may = allowed[query * allowed_stride + segment.first_tile + tile];
      float best = VQ_MINUS_INF;
#pragma unroll
      for (int group = 0; group < 4; ++group) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = group * 16 + half * 8 + lane / 4, i = half * 2 + odd;
          const i64 row = tile * VQ_TILE_ROWS + at;
          if (row >= segment.rows || query >= count || !(may >> at & 1)) continue;
          const float norm = segment.norm ? ((const float*)segment.norm)[row] : 1.0f;
          const i64 sum = (i64)sums.high[group][column][i] * 256 + sums.low[group][column][i];
          float score = vq_score_of(sum, ((const float*)segment.lead)[row], norm, q, l2);
#if VQ_COARSE
          score = vq_key_of(score, sums.coarse[group][column][i], norm, q, l2);
#endif
          best = fmaxf(best, vq_valid(score));
        }
      }
      for (int step = 4; step < 32; step *= 2) best = fmaxf(best, __shfl_xor_sync(VQ_FULL, best, step));
      if (lane < 4 && query < count) maxima[query * stride + segment.first_tile + tile] = best;
    }
  }
}

__device__ __forceinline__ void vq_clear(vq_sums& sums) {
#pragma unroll
  for (int group = 0; group < 4; ++group)
#pragma unroll
    for (int column = 0; column < VQ_COLUMNS; ++column)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums.high[group][column][i] = sums.low[group][column][i] = 0;
#if VQ_COARSE
        sums.coarse[group][column][i] = 0;
#endif
      }
}

// `used` chunks hold coordinates, `chunks` are stored: the trellis has fields behind the last coordinate's own.
VQ_KERNEL(32 * VQ_WARPS)
vq_scan(const vq_segment* segments, int number, int used, int chunks, const u8* levels, const uint4* fragments,
        const uint2* coarse, const vq_query* queries, int count, int l2, const u64* allowed, i64 allowed_stride,
        float* maxima, i64 stride) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const vq_segment segment = segments[number];
  const u64 column_stride = (u64)used * VQ_STEPS * 32;
  vq_table table;
#if VQ_TRELLIS
  __shared__ u8 levels_here[1 << VQ_WINDOW];
  for (int i = threadIdx.x; i < 1 << VQ_WINDOW; i += blockDim.x) levels_here[i] = levels[i];
  __syncthreads();
  table.levels = levels_here;
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) table.levels[i] = ((const u32*)levels)[i];
#endif
  vq_sums sums;
  vq_clear(sums);

#if VQ_SHARED
  __shared__ uint4 decoded[2][4][VQ_STEPS][32];
#if VQ_TRELLIS && VQ_COARSE
  __shared__ uint4 signs[2][4][VQ_STEPS][32];
#endif
  const int parts = (count + 8 * VQ_COLUMNS * VQ_WARPS - 1) / (8 * VQ_COLUMNS * VQ_WARPS);
  const i64 tile = blockIdx.x / parts;
  const int first_query = ((int)(blockIdx.x % parts) * VQ_WARPS + warp) * 8 * VQ_COLUMNS;
  const bool idle = first_query >= count;  // decodes for the others
  const uint4* group = (const uint4*)segment.codes + (u64)(tile * 4 + warp) * chunks * 32;
  const uint4* b = fragments + first_query / 8 * column_stride + lane;
  const uint2* c = coarse + first_query / 8 * column_stride + lane;
  uint4 now = vq_chunk(group, 0, chunks);
  for (int chunk = 0; chunk < used; ++chunk) {
    const uint4 next = vq_chunk(group, chunk + 1, chunks);
    const uint2 following = vq_following(now, next);
#pragma unroll
    for (int s = 0; s < VQ_STEPS; ++s) {
      const vq_fragment a = vq_decode(table, now, following, s);
      decoded[chunk % 2][warp][s][lane] = a.levels;
#if VQ_TRELLIS && VQ_COARSE
      signs[chunk % 2][warp][s][lane] = a.signs;
#endif
    }
    now = next;
    // One barrier is enough: who writes this buffer again has passed the next barrier, after all have read it.
    __syncthreads();
    if (idle) continue;
#pragma unroll
    for (int s = 0; s < VQ_STEPS; ++s)
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        vq_fragment a;
        a.levels = decoded[chunk % 2][g][s][lane];
#if VQ_TRELLIS && VQ_COARSE
        a.signs = signs[chunk % 2][g][s][lane];
#endif
        vq_multiply(sums, g, a, b + (chunk * VQ_STEPS + s) * 32, c + (chunk * VQ_STEPS + s) * 32, column_stride);
      }
  }
  if (!idle)
    vq_write_maxima(sums, segment, tile, queries, first_query, count, l2, allowed, allowed_stride, maxima, stride);
#else
  const i64 tile = (i64)blockIdx.x * VQ_WARPS + warp;
  if (tile * VQ_TILE_ROWS >= segment.rows) return;
  const uint4* group = (const uint4*)segment.codes + (u64)tile * 4 * chunks * 32;
  const u64 group_stride = (u64)chunks * 32;
  uint4 now[4];
#pragma unroll
  for (int g = 0; g < 4; ++g) now[g] = vq_chunk(group + g * group_stride, 0, chunks);
  for (int chunk = 0; chunk < used; ++chunk) {
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      const uint4 next = vq_chunk(group + g * group_stride, chunk + 1, chunks);
      const uint2 following = vq_following(now[g], next);
#pragma unroll
      for (int s = 0; s < VQ_STEPS; ++s)
        vq_multiply(sums, g, vq_decode(table, now[g], following, s), fragments + (chunk * VQ_STEPS + s) * 32 + lane,
                    coarse + (chunk * VQ_STEPS + s) * 32 + lane, column_stride);
      now[g] = next;
    }
  }
  vq_write_maxima(sums, segment, tile, queries, 0, count, l2, allowed, allowed_stride, maxima, stride);
#endif
}
