// uses: common.cuh rotate.cuh
// Encodes float32 rows: scaled domain, rotation, quantization, rescale, packing. The bytes equal those of reference.py.
// One block encodes one row.
//
//   shared memory: x', later y [padded d] | second buffer [padded d], later the fields | thresholds times s [256]
//
// VQ_TRELLIS=1 stops after the rotation. It writes y and the integers that the trellis search (viterbi.cu) takes;
// finish.cu computes the rescale and packs.

VQ_KERNEL(VQ_THREADS)
vq_encode(const float* vectors, int dim, int stride, const u32* signs, const float* scales, int cosine, float* norm,
#if VQ_TRELLIS
          float value_scale, int peak, float* rotated, short* values, double* norm2, int* shift
#else
          const float* thresholds, const short* levels, int bits, int renormalized, double cell_scale, u8* codes,
          int code_bytes, float* rescale
#endif
) {
  VQ_DYNAMIC_SHARED(shared);
  __shared__ float scratch[VQ_THREADS / 32];
  __shared__ vq_scaled scaled;
  const int padded = (VQ_AT(dim) + 4) / 4 * 4;
  const u64 row = blockIdx.x;
  float *y = (float*)shared, *other = y + padded;
  const vq_rotation rotation = {dim, stride, signs, scales};

  vq_to_scaled(vectors + row * dim, dim, y, scratch, &scaled);
  vq_rotate(rotation, y, other);

  const float s = __double2float_rn(__dsqrt_rn(__ddiv_rn(scaled.norm2, (double)dim)));
  if (norm && threadIdx.x == 0) norm[row] = vq_flush(vq_ldexp(__dsqrt_rn(scaled.norm2), scaled.shift));
#if VQ_TRELLIS
  const float inverse = s > 0.0f ? __fdiv_rn(value_scale, s) : 0.0f;
  for (int j = threadIdx.x; j < dim; j += blockDim.x) {
    float v = y[VQ_AT(j)];
    float whole = rintf(__fmul_rn(v, inverse));
    rotated[row * dim + j] = v;
    values[row * dim + j] = (short)fminf(fmaxf(whole, (float)-peak), (float)peak);
  }
  if (threadIdx.x == 0) {
    norm2[row] = scaled.norm2;
    shift[row] = scaled.shift;
  }
#else
  float* scaled_thresholds = other + padded;
  u8* fields = (u8*)other;
  const int count = (1 << bits) - 1;
  for (int i = threadIdx.x; i < count; i += blockDim.x) scaled_thresholds[i] = __fmul_rn(thresholds[i], s);
  __syncthreads();
  // A field is the number of thresholds that y exceeds. The thresholds rise, so a binary search counts them.
  for (int j = threadIdx.x; j < dim; j += blockDim.x) {
    float v = y[VQ_AT(j)];
    int field = 0;
    for (int step = 1 << (bits - 1); step; step /= 2)
      if (v > scaled_thresholds[field + step - 1]) field += step;
    fields[j] = (u8)field;
  }
  __syncthreads();
  vq_pack(fields, dim, bits, 0, codes + row * code_bytes);
  if (!renormalized) {
    if (threadIdx.x == 0) {
      double length = __dmul_rn(__dsqrt_rn(scaled.norm2), cell_scale);
      rescale[row] = vq_from_scaled(length, scaled.norm2, scaled.shift, cosine);
    }
  } else if (threadIdx.x < 32) {
    double dot = vq_sum64(dim, [&](int j) { return __dmul_rn((double)y[VQ_AT(j)], (double)levels[fields[j]]); });
    if (threadIdx.x == 0) rescale[row] = vq_rescale(dot, scaled.norm2, scaled.shift, cosine);
  }
#endif
}
