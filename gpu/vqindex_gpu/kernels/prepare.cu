// uses: common.cuh rotate.cuh
// Rotates float32 queries and rounds them to int16 (estimator.py, "Query"). One block prepares one query.
//
// The shared memory is that of encode.cu, without fields and thresholds.

VQ_KERNEL(VQ_THREADS)
vq_prepare(const float* queries, int dim, int stride, const u32* signs, const float* scales, int cosine,
           short* code_query, float* code_scale, float* norm) {
  VQ_DYNAMIC_SHARED(shared);
  __shared__ float scratch[VQ_THREADS / 32];
  __shared__ vq_scaled scaled;
  const int padded = (VQ_AT(dim) + 4) / 4 * 4;
  const u64 row = blockIdx.x;
  float *y = (float*)shared, *other = y + padded;
  const vq_rotation rotation = {dim, stride, signs, scales};

  vq_to_scaled(queries + row * dim, dim, y, scratch, &scaled);
  vq_rotate(rotation, y, other);

  float peak = 0.0f;
  for (int j = threadIdx.x; j < dim; j += blockDim.x) peak = fmaxf(peak, fabsf(y[VQ_AT(j)]));
  peak = vq_block_max(peak, scratch);
  const float inverse = __fdiv_rn(32767.0f, peak > 0.0f ? peak : 1.0f);
  for (int j = threadIdx.x; j < dim; j += blockDim.x)
    code_query[row * dim + j] = (short)__float2int_rn(__fmul_rn(y[VQ_AT(j)], inverse));
  if (threadIdx.x == 0) {
    code_scale[row] = vq_from_scaled(__ddiv_rn((double)peak, 32767.0), scaled.norm2, scaled.shift, cosine);
    norm[row] = vq_from_scaled(__dsqrt_rn(scaled.norm2), scaled.norm2, scaled.shift, cosine);
  }
}
