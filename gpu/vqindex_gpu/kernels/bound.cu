// uses: common.cuh layout.cuh
// Prepares the sign bound of int16 queries (sign_bound.py): the int8 query c that sign bits are multiplied by, and the
// terms A and B of the bound. One block prepares one query.
//
// A and B consist of float64 products, sums and one square root, in the order of `bound_scales`. Each is rounded once.

VQ_KERNEL(VQ_THREADS)
vq_bound(const short* code_query, int dim, double sum_scale, double sign_variance, double rounding_variance, double z,
         signed char* sign_query, vq_query* queries) {
  __shared__ i64 scratch[VQ_THREADS / 32];
  const u64 query = blockIdx.x;
  i64 error2 = 0;  // squared rounding error of c; integers, so the order of the sum does not matter
  for (int j = threadIdx.x; j < dim; j += blockDim.x) {
    const int wide = 5 * code_query[query * dim + j], c = (wide + (1 << 14)) >> 15, error = wide - 32767 * c;
    sign_query[query * dim + j] = (signed char)c;
    error2 += (i64)error * error;
  }
  for (int half = 16; half; half /= 2) error2 += __shfl_xor_sync(VQ_FULL, error2, half);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = error2;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < VQ_THREADS / 32; ++warp) error2 += scratch[warp];
  vq_query& q = queries[query];
  const double step = (double)q.code_scale, norm = (double)q.norm;
  const double exact = __dmul_rn(sign_variance, __dmul_rn(norm, norm));
  const double rounded = __dmul_rn(__dmul_rn(rounding_variance, __ll2double_rn(error2)), __dmul_rn(step, step));
  q.bound_scale = __double2float_rn(__dmul_rn(sum_scale, step));
  q.bound_offset = __double2float_rn(__dmul_rn(z, __dsqrt_rn(__dadd_rn(exact, rounded))));
}
