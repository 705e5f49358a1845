// uses: common.cuh layout.cuh
// What the coarse stage needs of int16 queries, a query a block: c, and A and B of the bound (sign_bound.py).
//
// A and B are made of float64 products, sums and one root, in the order of `bound_scales`, each rounded once.

VQ_KERNEL(VQ_THREADS)
vq_bound(const short* lead, int dim, double scale, double plane, double rounding, double z, signed char* c,
         vq_query* queries) {
  __shared__ i64 room[VQ_THREADS / 32];
  const u64 query = blockIdx.x;
  i64 left = 0;  // exact in any order
  for (int j = threadIdx.x; j < dim; j += blockDim.x) {
    const int wide = 5 * lead[query * dim + j], small = (wide + (1 << 14)) >> 15, rest = wide - 32767 * small;
    c[query * dim + j] = (signed char)small;
    left += (i64)rest * rest;
  }
  for (int half = 16; half; half /= 2) left += __shfl_xor_sync(VQ_FULL, left, half);
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = left;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < VQ_THREADS / 32; ++warp) left += room[warp];
  vq_query& q = queries[query];
  const double step = (double)q.scale, norm = (double)q.norm;
  const double exact = __dmul_rn(plane, __dmul_rn(norm, norm));
  const double rounded = __dmul_rn(__dmul_rn(rounding, __ll2double_rn(left)), __dmul_rn(step, step));
  q.bound_scale = __double2float_rn(__dmul_rn(scale, step));
  q.bound_offset = __double2float_rn(__dmul_rn(z, __dsqrt_rn(__dadd_rn(exact, rounded))));
}
