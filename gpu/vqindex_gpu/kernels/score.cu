// uses: common.cuh layout.cuh
// Keys of single rows, a thread a row: plain, right for every codec, and the oracle of scan.cu.
//
// VQ_MAXIMA=1: block (tile, query) writes the best key of the tile.
// VQ_MAXIMA=0: block (place, query) scores the rows of tile tiles[query][place] (-1: none), key and score of each.
//
// VQ_KIND: 0 a level for each field; 1 the trellis; 2 a level and a sign of a sketch; 3 signs alone (qjl).

#if VQ_KIND == 1
#define VQ_LOOK (VQ_WINDOW / VQ_BITS)
#endif

struct vq_sums {
  i64 lead, tail;
  int coarse;
};

// One field: its level times the query, and what else the kind has.
__device__ __forceinline__ void vq_add(vq_sums& sums, u32 field, int j, const short* levels, const short* lead,
                                       const short* tail, const signed char* c) {
#if VQ_KIND == 2
  sums.lead += (int)lead[j] * levels[field >> 1];
  sums.tail += field & 1 ? tail[j] : -tail[j];
#elif VQ_KIND == 3
  sums.tail += field ? tail[j] : -tail[j];
#else
  sums.lead += (i64)((int)lead[j] * levels[field]);
#if VQ_COARSE && VQ_KIND == 1
  sums.coarse += (field >> (VQ_WINDOW - 1) ^ field) & 1 ? c[j] : -c[j];  // sign_of_window of trellis.py
#elif VQ_COARSE
  sums.coarse += field >> (VQ_BITS - 1) ? c[j] : -c[j];
#endif
#endif
}

__device__ __forceinline__ vq_sums vq_sum_row(const u64* codes, int row, int count, int chunks, const short* levels,
                                              const short* lead, const short* tail, const signed char* c) {
  vq_sums sums = {0, 0, 0};
  const int words = chunks * 4;
  u64 word = codes[vq_word_at(row, 0, 0, chunks)];
  for (int w = 0; w * VQ_PER_LANE < count; ++w) {
    u64 next = w + 1 < words ? codes[vq_word_at(row, (w + 1) / 4, (w + 1) % 4, chunks)] : 0;
    for (int i = 0; i < VQ_PER_LANE; ++i) {
      const int j = w * VQ_PER_LANE + i;
      if (j >= count) break;
#if VQ_KIND == 1
      u32 field = 0;
      for (int k = 0; k < VQ_LOOK; ++k) {
        const int bit = (i + k) * VQ_SLOT;
        u64 slot = bit < 64 ? word >> bit : next >> (bit - 64);
        field |= (u32)(slot & ((1 << VQ_BITS) - 1)) << (k * VQ_BITS);
      }
#else
      u32 field = (u32)(word >> (i * VQ_SLOT)) & ((1u << VQ_SLOT) - 1);
#endif
      vq_add(sums, field, j, levels, lead, tail, c);
    }
    word = next;
  }
  return sums;
}

// `count` coordinates; levels by field, window or cell. allowed: a word of 64 rows for each tile, null for all rows;
// its lines are `allowed_stride` words apart, 0 if all queries have the same.
VQ_KERNEL(VQ_TILE_ROWS)
vq_score(const vq_segment* segments, int segment_count, int count, int chunks, const short* levels, const short* lead,
         const short* tail, const signed char* c, const vq_query* queries, int l2, const u64* allowed,
         i64 allowed_stride, i64 tiles,
#if VQ_MAXIMA
         float* maxima
#else
         const int* wanted, float* keys, float* scores
#endif
) {
  const u64 query = blockIdx.y, place = query * gridDim.x + blockIdx.x;
#if VQ_MAXIMA
  __shared__ float room[VQ_TILE_ROWS / 32];
  const i64 tile = blockIdx.x;
#else
  const i64 tile = wanted[place];
#endif
  float key = VQ_MINUS_INF, score = VQ_MINUS_INF;
  if (tile >= 0 && tile < tiles) {
    int at = 0;
    while (at + 1 < segment_count && segments[at + 1].first_tile <= tile) ++at;
    const vq_segment segment = segments[at];
    const i64 row = (tile - segment.first_tile) * VQ_TILE_ROWS + threadIdx.x;
    const bool may = !allowed || allowed[query * allowed_stride + tile] >> threadIdx.x & 1;
    if (row < segment.rows && may) {
      const vq_query q = queries[query];
      vq_sums sums = vq_sum_row((const u64*)segment.codes, (int)row, count, chunks, levels, lead + query * count,
                                tail + query * count, c + query * count);
      const float weight = ((const float*)segment.lead)[row];
      const float norm = segment.norm ? ((const float*)segment.norm)[row] : 1.0f;
#if VQ_KIND >= 2
      float ip = __fmul_rn(__fmul_rn(__ll2float_rn(sums.lead), q.scale), weight);
      float signs = __fmul_rn(__ll2float_rn(sums.tail), q.tail_scale);
      ip = __fadd_rn(VQ_KIND == 3 ? 0.0f : ip, __fmul_rn(signs, ((const float*)segment.tail)[row]));
      score = vq_signed(ip, norm, q.norm, l2);
#else
      score = vq_score_of(sums.lead, weight, norm, q, l2);
#endif
      key = vq_valid(VQ_COARSE ? vq_key_of(score, sums.coarse, norm, q, l2) : score);
    }
  }
#if VQ_MAXIMA
  key = vq_block_max(key, room);
  if (threadIdx.x == 0) maxima[place] = key;
#else
  keys[place * VQ_TILE_ROWS + threadIdx.x] = key;
  scores[place * VQ_TILE_ROWS + threadIdx.x] = score;
#endif
}
