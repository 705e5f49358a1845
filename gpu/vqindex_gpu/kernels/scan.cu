// uses: common.cuh layout.cuh
// The fused scan. It decodes codes to int8 levels in registers, computes exact integer sums on the tensor cores, turns
// them into rank scores, and writes the best rank score of every tile of 64 rows for each query. No decoded vector and
// no score of a single row is written to memory.
//
//     sum code_query * level = 256 sum high * level + sum low * level      (code_query = 256 high + low; queries.cu)
//     sum sign_query * sign                                                (only if VQ_SIGN_BOUND=1; sign_bound.py)
//
// VQ_SHARED=0, for up to eight queries: each warp takes a tile of its own and decodes the four subtiles as it reads
//   them. It uses no shared memory, except for the level table of a trellis. The reading of the codes bounds its time.
//
//      block = 4 warps = 4 tiles:   warp w   [subtile 0..3] x [8 queries]
//
// VQ_SHARED=1, for batches: each block takes a tile. A warp decodes one subtile for all warps, and multiplies all four
//   subtiles by 16 queries of its own. Decoded levels pass through two buffers in turn; each chunk needs one barrier.
//
//      block = 4 warps = 1 tile:    warp w   decodes [subtile w],   [subtile 0..3] x [queries 16 w .. 16 w + 15]
//
//   Blocks of the same tile have consecutive numbers, so that all but the first find its codes in the second-level
//   cache.

#define VQ_STEPS (8 / VQ_SLOT)
#define VQ_WARPS 4
#if VQ_SHARED
#define VQ_COLUMNS 2  // query groups of a warp
#else
#define VQ_COLUMNS 1
#endif

struct vq_sums {
  int high[4][VQ_COLUMNS][4], low[4][VQ_COLUMNS][4];
#if VQ_SIGN_BOUND
  int sign[4][VQ_COLUMNS][4];
#endif
};

struct vq_fragment {
  uint4 levels;
#if VQ_TRELLIS
  uint4 signs;  // stored apart, because a trellis level near 0 can have the opposite sign
#endif
};

#if VQ_TRELLIS
struct vq_table {
  const u8* levels;  // in shared memory
};

// Decodes four levels of a row, starting at slot `first` of 12 bytes. Writes their signs as bytes 1 and -1.
__device__ __forceinline__ u32 vq_four(const vq_table& table, u32 a, u32 b, u32 next, int first, u32& signs) {
  u32 out = 0, positive = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int bit = (first + i) * VQ_SLOT;
    u32 slots = __funnelshift_r(bit < 32 ? a : b, bit < 32 ? b : next, bit % 32);
#if VQ_SLOT == VQ_BITS
    u32 window = slots & ((1 << VQ_WINDOW) - 1);
#else
    u32 window = (slots & 7) | (slots >> 1 & 0x38) | (slots >> 2 & 0x1c0);  // drops the spare bit of 3-bit fields
#endif
    out |= (u32)table.levels[window] << (8 * i);
    positive |= ((window >> (VQ_WINDOW - 1) ^ window) & 1) << (8 * i);  // sign_of_window of trellis.py
  }
  signs = 0x01010101u | (positive ^ 0x01010101u) * 255u;
  return out;
}

// Returns fragment A of step s: eight coordinates of rows g and g + 8. `next` holds the four bytes that follow `v` in
// each of the two rows.
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

// Returns the levels of four fields, given in the four low nibbles.
__device__ __forceinline__ u32 vq_four(const vq_table& table, u32 fields) {
#if VQ_BITS <= 3
  return vq_permute(table.levels[0], table.levels[1], fields & 0x7777);
#else
  u32 low = vq_permute(table.levels[0], table.levels[1], fields & 0x7777);
  u32 high = vq_permute(table.levels[2], table.levels[3], fields & 0x7777);
  return vq_permute(low, high, 0x3210 | (fields & 0x8888) >> 1);
#endif
}

// Returns fragment A of step s: phase s mod VQ_PHASES of word s div VQ_PHASES. A phase takes one slot of every nibble,
// so that one mask isolates eight fields of a word.
__device__ __forceinline__ vq_fragment vq_decode(const vq_table& table, uint4 v, uint2, int s) {
  const u32 mask = 0x11111111u * ((1 << VQ_SLOT) - 1);
  u32 a = (s / VQ_PHASES ? v.y : v.x) >> (s % VQ_PHASES * VQ_SLOT) & mask;
  u32 b = (s / VQ_PHASES ? v.w : v.z) >> (s % VQ_PHASES * VQ_SLOT) & mask;
  return {make_uint4(vq_four(table, a), vq_four(table, b), vq_four(table, a >> 16), vq_four(table, b >> 16))};
}

// Returns bytes -1 where levels are negative, and 1 elsewhere.
__device__ __forceinline__ u32 vq_sign4(u32 levels) {
  u32 negative = levels >> 7 & 0x01010101u;
  return 0x01010101u | negative * 255u;
}
#endif

// Returns the signs of a fragment. Those of a scalar code are the signs of its levels, so they need no storage.
__device__ __forceinline__ uint4 vq_signs(const vq_fragment& a) {
#if VQ_TRELLIS
  return a.signs;
#else
  return make_uint4(vq_sign4(a.levels.x), vq_sign4(a.levels.y), vq_sign4(a.levels.z), vq_sign4(a.levels.w));
#endif
}

// Returns the four bytes that follow a lane's bytes in each of its two rows. They belong to the next lane; for the last
// lane of a row they belong to the next chunk. Only a trellis needs them.
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

// Loads a lane's bytes of a chunk; zeros past the last chunk.
__device__ __forceinline__ uint4 vq_chunk(const uint4* subtile, int chunk, int chunks) {
  return chunk < chunks ? vq_load_once(subtile + (u64)chunk * 32 + threadIdx.x % 32) : make_uint4(0, 0, 0, 0);
}

// Multiplies one step of one subtile by the queries of this warp.
__device__ __forceinline__ void vq_multiply(vq_sums& sums, int subtile, const vq_fragment& a, const uint4* b,
                                            const uint2* c, u64 column_stride) {
#pragma unroll
  for (int column = 0; column < VQ_COLUMNS; ++column) {
    uint4 q = b[column * column_stride];
    vq_mma_s8(sums.high[subtile][column], a.levels, q.x, q.y);
    vq_mma_u8(sums.low[subtile][column], a.levels, q.z, q.w);
#if VQ_SIGN_BOUND
    uint2 sign_query = c[column * column_stride];
    vq_mma_s8(sums.sign[subtile][column], vq_signs(a), sign_query.x, sign_query.y);
#endif
  }
}

// Turns sums into rank scores, and writes the best of the tile's 64 rows for each of the warp's queries.
__device__ __forceinline__ void vq_write_maxima(const vq_sums& sums, const vq_segment& segment, i64 tile,
                                                const vq_query* queries, int first_query, int count, int l2,
                                                const u64* allowed, i64 allowed_stride, float* maxima,
                                                i64 maxima_stride) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int column = 0; column < VQ_COLUMNS; ++column) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int query = first_query + column * 8 + lane % 4 * 2 + odd;
      const vq_query q = query < count ? queries[query] : vq_query{0, 0, 0, 0, 0};
      u64 allowed_rows = ~0ull;
      if (allowed && query < count) allowed_rows = allowed[query * allowed_stride + segment.first_tile + tile];
      float best = VQ_MINUS_INF;
#pragma unroll
      for (int subtile = 0; subtile < 4; ++subtile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = subtile * 16 + half * 8 + lane / 4, i = half * 2 + odd;
          const i64 row = tile * VQ_TILE_ROWS + at;
          if (row >= segment.rows || query >= count || !(allowed_rows >> at & 1)) continue;
          const float norm = segment.norm ? ((const float*)segment.norm)[row] : 1.0f;
          const i64 sum = (i64)sums.high[subtile][column][i] * 256 + sums.low[subtile][column][i];
          float score = vq_score_of_sum(sum, ((const float*)segment.code_weight)[row], norm, q, l2);
#if VQ_SIGN_BOUND
          score = vq_rank_score(score, sums.sign[subtile][column][i], norm, q, l2);
#endif
          best = fmaxf(best, vq_nan_to_minus_inf(score));
        }
      }
      for (int step = 4; step < 32; step *= 2) best = fmaxf(best, __shfl_xor_sync(VQ_FULL, best, step));
      if (lane < 4 && query < count) maxima[query * maxima_stride + segment.first_tile + tile] = best;
    }
  }
}

__device__ __forceinline__ void vq_clear(vq_sums& sums) {
#pragma unroll
  for (int subtile = 0; subtile < 4; ++subtile)
#pragma unroll
    for (int column = 0; column < VQ_COLUMNS; ++column)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums.high[subtile][column][i] = sums.low[subtile][column][i] = 0;
#if VQ_SIGN_BOUND
        sums.sign[subtile][column][i] = 0;
#endif
      }
}

// A row has `chunks` chunks, of which the first `coordinate_chunks` hold the first slot of some coordinate. A trellis
// row can be longer, because its windows extend past the last coordinate's first slot.
VQ_KERNEL(32 * VQ_WARPS)
vq_scan(const vq_segment* segments, int number, int coordinate_chunks, int chunks, const u8* levels,
        const uint4* code_fragments, const uint2* sign_fragments, const vq_query* queries, int count, int l2,
        const u64* allowed, i64 allowed_stride, float* maxima, i64 maxima_stride) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const vq_segment segment = segments[number];
  const u64 column_stride = (u64)coordinate_chunks * VQ_STEPS * 32;
  vq_table table;
#if VQ_TRELLIS
  __shared__ u8 shared_levels[1 << VQ_WINDOW];
  for (int i = threadIdx.x; i < 1 << VQ_WINDOW; i += blockDim.x) shared_levels[i] = levels[i];
  __syncthreads();
  table.levels = shared_levels;
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) table.levels[i] = ((const u32*)levels)[i];
#endif
  vq_sums sums;
  vq_clear(sums);

#if VQ_SHARED
  __shared__ uint4 decoded[2][4][VQ_STEPS][32];
#if VQ_TRELLIS && VQ_SIGN_BOUND
  __shared__ uint4 signs[2][4][VQ_STEPS][32];
#endif
  const int query_blocks = (count + 8 * VQ_COLUMNS * VQ_WARPS - 1) / (8 * VQ_COLUMNS * VQ_WARPS);
  const i64 tile = blockIdx.x / query_blocks;
  const int first_query = ((int)(blockIdx.x % query_blocks) * VQ_WARPS + warp) * 8 * VQ_COLUMNS;
  const bool has_queries = first_query < count;  // a warp without queries only decodes for the others
  const uint4* subtile = (const uint4*)segment.codes + (u64)(tile * 4 + warp) * chunks * 32;
  const uint4* b = code_fragments + first_query / 8 * column_stride + lane;
  const uint2* c = sign_fragments + first_query / 8 * column_stride + lane;
  uint4 now = vq_chunk(subtile, 0, chunks);
  for (int chunk = 0; chunk < coordinate_chunks; ++chunk) {
    const uint4 next = vq_chunk(subtile, chunk + 1, chunks);
    const uint2 following = vq_following(now, next);
#pragma unroll
    for (int s = 0; s < VQ_STEPS; ++s) {
      const vq_fragment a = vq_decode(table, now, following, s);
      decoded[chunk % 2][warp][s][lane] = a.levels;
#if VQ_TRELLIS && VQ_SIGN_BOUND
      signs[chunk % 2][warp][s][lane] = a.signs;
#endif
    }
    now = next;
    // One barrier for each chunk is enough. A warp writes this buffer again only after it has passed the next barrier,
    // which all warps reach only after they have read this buffer.
    __syncthreads();
    if (!has_queries) continue;
#pragma unroll
    for (int s = 0; s < VQ_STEPS; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        vq_fragment a;
        a.levels = decoded[chunk % 2][i][s][lane];
#if VQ_TRELLIS && VQ_SIGN_BOUND
        a.signs = signs[chunk % 2][i][s][lane];
#endif
        vq_multiply(sums, i, a, b + (chunk * VQ_STEPS + s) * 32, c + (chunk * VQ_STEPS + s) * 32, column_stride);
      }
  }
  if (has_queries)
    vq_write_maxima(sums, segment, tile, queries, first_query, count, l2, allowed, allowed_stride, maxima,
                    maxima_stride);
#else
  const i64 tile = (i64)blockIdx.x * VQ_WARPS + warp;
  if (tile * VQ_TILE_ROWS >= segment.rows) return;
  const uint4* codes = (const uint4*)segment.codes + (u64)tile * 4 * chunks * 32;
  const u64 subtile_stride = (u64)chunks * 32;
  uint4 now[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) now[i] = vq_chunk(codes + i * subtile_stride, 0, chunks);
  for (int chunk = 0; chunk < coordinate_chunks; ++chunk) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 next = vq_chunk(codes + i * subtile_stride, chunk + 1, chunks);
      const uint2 following = vq_following(now[i], next);
#pragma unroll
      for (int s = 0; s < VQ_STEPS; ++s)
        vq_multiply(sums, i, vq_decode(table, now[i], following, s),
                    code_fragments + (chunk * VQ_STEPS + s) * 32 + lane,
                    sign_fragments + (chunk * VQ_STEPS + s) * 32 + lane, column_stride);
      now[i] = next;
    }
  }
  vq_write_maxima(sums, segment, tile, queries, 0, count, l2, allowed, allowed_stride, maxima, maxima_stride);
#endif
}
