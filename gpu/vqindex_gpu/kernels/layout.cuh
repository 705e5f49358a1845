// Rows in device memory, and the keys they are compared by.
//
// A field lies in a slot of VQ_SLOT bits: 1, 2, 4 (also for 3 bits) or 8 (for 5 to 8). 64 rows are a tile, 16 rows of
// it a group. The slots of a row are cut into chunks of 32 bytes:
//
//     [tile][group: 4][chunk][lane: 32][row g: 8 bytes | row g + 8: 8 bytes],   g = lane / 4
//
// and lane 4g + t holds bytes 8t .. 8t + 7 of the chunk. So the 16 bytes of a lane are its part of the fragment A of
// mma.m16n8k32 for 64 / VQ_SLOT coordinates of two rows, up to an order of the coordinates that queries.cu gives the
// queries as well. Spare slots and rows are zero; queries are zero there.

#define VQ_PER_CHUNK (256 / VQ_SLOT)
#define VQ_PER_LANE (64 / VQ_SLOT)

struct vq_segment {  // rows that lie together; pointers as integers, so that a table of them can be uploaded
  u64 codes, lead, tail, norm;
  i64 first_tile, rows;
};

// Eight bytes of a row: word `t` of chunk `chunk`.
__device__ __forceinline__ u64 vq_word_at(int row, int chunk, int t, int chunks) {
  const int group = row / 16 % 4, g = row % 8, half = row / 8 % 2;
  return ((((u64)(row / 64) * 4 + group) * chunks + chunk) * 32 + g * 4 + t) * 2 + half;
}

struct vq_query {
  float scale, tail_scale, norm;    // as in Queries
  float bound_scale, bound_offset;  // A and B of sign_bound.py
};

// The score of an inner product, larger better: for l2 the distance with its sign changed.
__device__ __forceinline__ float vq_signed(float ip, float norm, float query_norm, int l2) {
  if (!l2) return ip;
  float squares = __fadd_rn(__fmul_rn(norm, norm), __fmul_rn(query_norm, query_norm));
  return -__fsub_rn(squares, __fmul_rn(2.0f, ip));
}

__device__ __forceinline__ float vq_score_of(i64 sum, float weight, float norm, const vq_query& q, int l2) {
  return vq_signed(__fmul_rn(__fmul_rn(__ll2float_rn(sum), q.scale), weight), norm, q.norm, l2);
}

// The worse of score and bound; norm is 1 for cosine.
__device__ __forceinline__ float vq_key_of(float score, int coarse_sum, float norm, const vq_query& q, int l2) {
  float ip = __fmul_rn(__fadd_rn(__fmul_rn((float)coarse_sum, q.bound_scale), q.bound_offset), norm);
  float bound = vq_signed(ip, norm, q.norm, l2);
  return score < bound || score != score ? score : bound;
}

// Keys that are no number belong to no row, as in the reference.
__device__ __forceinline__ float vq_valid(float key) { return key == key ? key : VQ_MINUS_INF; }
