// uses: common.cuh rotate.cuh
// Finishes a trellis row whose fields viterbi.cu has found: packs the fields and computes the rescale. One block
// finishes one row.

VQ_KERNEL(VQ_THREADS)
vq_finish(const float* rotated, const double* norm2, const int* shift, const u8* fields, const signed char* levels,
          int dim, int bits, int warmup_fields, int has_signs, int cosine, u8* codes, int code_bytes, float* rescale) {
  const u64 row = blockIdx.x;
  const u8* path = fields + row * (dim + warmup_fields);
  const float* y = rotated + row * dim;
  vq_pack(path, dim + warmup_fields, bits, has_signs ? warmup_fields : 0, codes + row * code_bytes);
  if (threadIdx.x < 32) {
    double dot = vq_sum64(dim, [&](int j) {
      int window = 0;
      for (int i = 0; i <= warmup_fields; ++i) window |= path[j + i] << (i * bits);
      return __dmul_rn((double)y[j], (double)levels[window]);
    });
    if (threadIdx.x == 0) rescale[row] = vq_rescale(dot, norm2[row], shift[row], cosine);
  }
}
