// The layout of rows in device memory, and the rank scores that rows are compared by.
//
// Sizes, from the smallest to the largest:
//
//     field     the bits of one coordinate
//     slot      VQ_SLOT bits that hold a field: 1, 2, 4 (also for 3 bits) or 8 (for 5 to 8 bits)
//     chunk     32 bytes of a row: 256 / VQ_SLOT slots
//     subtile   16 rows, the height of fragment A of mma.m16n8k32
//     tile      64 rows, four subtiles
//
// The chunks of a tile are stored in this order:
//
//     [tile][subtile: 4][chunk][lane: 32][row g: 8 bytes | row g + 8: 8 bytes],   g = lane / 4
//
// Lane 4g + t of a warp holds bytes 8t .. 8t + 7 of the chunk, of rows g and g + 8. A lane's 16 bytes are therefore its
// part of fragment A for 64 / VQ_SLOT coordinates of two rows, up to an order of the coordinates. queries.cu stores the
// queries in the same order. Spare slots and spare rows are zero, and the queries are zero at spare slots.

#define VQ_PER_CHUNK (256 / VQ_SLOT)
#define VQ_PER_LANE (64 / VQ_SLOT)

// Rows that lie together. Pointers are integers, so that the host can upload a table of segments.
struct vq_segment {
  u64 codes, code_weight, sketch_weight, norm;
  i64 first_tile, rows;
};

// Returns the index of 8 bytes of a row: word t of a chunk.
__device__ __forceinline__ u64 vq_word_at(int row, int chunk, int t, int chunks) {
  const int subtile = row / 16 % 4, g = row % 8, half = row / 8 % 2;
  return ((((u64)(row / 64) * 4 + subtile) * chunks + chunk) * 32 + g * 4 + t) * 2 + half;
}

struct vq_query {
  float code_scale, sketch_scale, norm;  // as in Queries
  float bound_scale, bound_offset;       // A and B of sign_bound.py
};

// Returns the score of an inner product; larger is better. For l2 it is the negated squared distance.
__device__ __forceinline__ float vq_score_of_ip(float ip, float norm, float query_norm, int l2) {
  if (!l2) return ip;
  float squares = __fadd_rn(__fmul_rn(norm, norm), __fmul_rn(query_norm, query_norm));
  return -__fsub_rn(squares, __fmul_rn(2.0f, ip));
}

// Returns the score of a row from its exact integer sum.
__device__ __forceinline__ float vq_score_of_sum(i64 sum, float weight, float norm, const vq_query& q, int l2) {
  return vq_score_of_ip(__fmul_rn(__fmul_rn(__ll2float_rn(sum), q.code_scale), weight), norm, q.norm, l2);
}

// Returns the rank score of a row: the worse of its score and its sign bound. `norm` is 1 for cosine.
__device__ __forceinline__ float vq_rank_score(float score, int sign_sum, float norm, const vq_query& q, int l2) {
  float ip = __fmul_rn(__fadd_rn(__fmul_rn((float)sign_sum, q.bound_scale), q.bound_offset), norm);
  float bound = vq_score_of_ip(ip, norm, q.norm, l2);
  return score < bound || score != score ? score : bound;
}

// Replaces a rank score that is not a number by -inf, which no search returns. The reference does the same.
__device__ __forceinline__ float vq_nan_to_minus_inf(float v) { return v == v ? v : VQ_MINUS_INF; }
