// uses: common.cuh rotate.cuh
// What is left of a trellis row once its fields are found: the factor and the packed row. A row a block.

VQ_KERNEL(VQ_THREADS)
vq_finish(const float* rotated, const double* norm2, const int* shift, const u8* fields, const signed char* table,
          int dim, int bits, int lead, int swap, int cosine, u8* codes, int code_bytes, float* factor) {
  const u64 row = blockIdx.x;
  const u8* mine = fields + row * (dim + lead);
  const float* y = rotated + row * dim;
  vq_pack(mine, dim + lead, bits, swap ? lead : 0, codes + row * code_bytes);
  if (threadIdx.x < 32) {
    double dot = vq_sum64(dim, [&](int j) {
      int window = 0;
      for (int i = 0; i <= lead; ++i) window |= mine[j + i] << (i * bits);
      return __dmul_rn((double)y[j], (double)table[window]);
    });
    if (threadIdx.x == 0) factor[row] = vq_factor(dot, norm2[row], shift[row], cosine);
  }
}
