// uses: common.cuh layout.cuh
// Computes the rank scores of single rows, one row in a thread. The kernel is simple and supports every codec; it is
// the oracle of scan.cu.
//
// VQ_MAXIMA=1: block (tile, query) writes the best rank score of the tile.
// VQ_MAXIMA=0: block (place, query) scores the rows of tile tiles[query][place], and writes rank score and score of
//   each. Tile -1 stands for none.
//
// VQ_KIND says what a field is:
//   0  a level
//   1  a field of a trellis
//   2  a level and a sign of the sketch
//   3  a sign (qjl)

#if VQ_KIND == 1
#define VQ_WINDOW_FIELDS (VQ_WINDOW / VQ_BITS)
#endif

struct vq_sums {
  i64 code, sketch;
  int sign;
};

// Adds one field to the sums of a row.
__device__ __forceinline__ void vq_add(vq_sums& sums, u32 field, int j, const short* levels, const short* code_query,
                                       const short* sketch_query, const signed char* sign_query) {
#if VQ_KIND == 2
  sums.code += (int)code_query[j] * levels[field >> 1];
  sums.sketch += field & 1 ? sketch_query[j] : -sketch_query[j];
#elif VQ_KIND == 3
  sums.sketch += field ? sketch_query[j] : -sketch_query[j];
#else
  sums.code += (i64)((int)code_query[j] * levels[field]);
#if VQ_SIGN_BOUND && VQ_KIND == 1
  const u32 positive = (field >> (VQ_WINDOW - 1) ^ field) & 1;  // sign_of_window of trellis.py
  sums.sign += positive ? sign_query[j] : -sign_query[j];
#elif VQ_SIGN_BOUND
  sums.sign += field >> (VQ_BITS - 1) ? sign_query[j] : -sign_query[j];
#endif
#endif
}

__device__ __forceinline__ vq_sums vq_sum_row(const u64* codes, int row, int coordinates, int chunks,
                                              const short* levels, const short* code_query, const short* sketch_query,
                                              const signed char* sign_query) {
  vq_sums sums = {0, 0, 0};
  const int words = chunks * 4;
  u64 word = codes[vq_word_at(row, 0, 0, chunks)];
  for (int w = 0; w * VQ_PER_LANE < coordinates; ++w) {
    u64 next = w + 1 < words ? codes[vq_word_at(row, (w + 1) / 4, (w + 1) % 4, chunks)] : 0;
    for (int i = 0; i < VQ_PER_LANE; ++i) {
      const int j = w * VQ_PER_LANE + i;
      if (j >= coordinates) break;
#if VQ_KIND == 1
      u32 field = 0;  // the whole window
      for (int k = 0; k < VQ_WINDOW_FIELDS; ++k) {
        const int bit = (i + k) * VQ_SLOT;
        u64 slot = bit < 64 ? word >> bit : next >> (bit - 64);
        field |= (u32)(slot & ((1 << VQ_BITS) - 1)) << (k * VQ_BITS);
      }
#else
      u32 field = (u32)(word >> (i * VQ_SLOT)) & ((1u << VQ_SLOT) - 1);
#endif
      vq_add(sums, field, j, levels, code_query, sketch_query, sign_query);
    }
    word = next;
  }
  return sums;
}

// `levels` is indexed by field, by window (VQ_KIND 1) or by cell (2). `allowed` has one word of 64 rows for each tile,
// or is null if all rows may be found. Its lines are `allowed_stride` words apart, 0 if all queries share one line.
VQ_KERNEL(VQ_TILE_ROWS)
vq_score(const vq_segment* segments, int segment_count, int coordinates, int chunks, const short* levels,
         const short* code_query, const short* sketch_query, const signed char* sign_query, const vq_query* queries,
         int l2, const u64* allowed, i64 allowed_stride, i64 tile_count,
#if VQ_MAXIMA
         float* maxima
#else
         const int* tiles, float* rank_scores, float* scores
#endif
) {
  const u64 query = blockIdx.y, place = query * gridDim.x + blockIdx.x;
#if VQ_MAXIMA
  __shared__ float scratch[VQ_TILE_ROWS / 32];
  const i64 tile = blockIdx.x;
#else
  const i64 tile = tiles[place];
#endif
  float rank_score = VQ_MINUS_INF, score = VQ_MINUS_INF;
  if (tile >= 0 && tile < tile_count) {
    int at = 0;
    while (at + 1 < segment_count && segments[at + 1].first_tile <= tile) ++at;
    const vq_segment segment = segments[at];
    const i64 row = (tile - segment.first_tile) * VQ_TILE_ROWS + threadIdx.x;
    const bool is_allowed = !allowed || allowed[query * allowed_stride + tile] >> threadIdx.x & 1;
    if (row < segment.rows && is_allowed) {
      const vq_query q = queries[query];
      vq_sums sums =
          vq_sum_row((const u64*)segment.codes, (int)row, coordinates, chunks, levels, code_query + query * coordinates,
                     sketch_query + query * coordinates, sign_query + query * coordinates);
      const float weight = ((const float*)segment.code_weight)[row];
      const float norm = segment.norm ? ((const float*)segment.norm)[row] : 1.0f;
#if VQ_KIND >= 2
      float ip = __fmul_rn(__fmul_rn(__ll2float_rn(sums.code), q.code_scale), weight);
      float signs = __fmul_rn(__ll2float_rn(sums.sketch), q.sketch_scale);
      ip = __fadd_rn(VQ_KIND == 3 ? 0.0f : ip, __fmul_rn(signs, ((const float*)segment.sketch_weight)[row]));
      score = vq_score_of_ip(ip, norm, q.norm, l2);
#else
      score = vq_score_of_sum(sums.code, weight, norm, q, l2);
#endif
      rank_score = vq_nan_to_minus_inf(VQ_SIGN_BOUND ? vq_rank_score(score, sums.sign, norm, q, l2) : score);
    }
  }
#if VQ_MAXIMA
  rank_score = vq_block_max(rank_score, scratch);
  if (threadIdx.x == 0) maxima[place] = rank_score;
#else
  rank_scores[place * VQ_TILE_ROWS + threadIdx.x] = rank_score;
  scores[place * VQ_TILE_ROWS + threadIdx.x] = score;
#endif
}
