// uses: common.cuh layout.cuh
// Rows on their way out: some rows of the device layout as packed code rows, a thread for each byte.

VQ_KERNEL(VQ_THREADS)
vq_gather(const u64 *stored, const i64 *at, i64 rows, int fields, int bits, int chunks, int code_bytes, u8 *codes) {
    const u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const i64 row = (i64)(index / code_bytes);
    const int byte = (int)(index % code_bytes);
    if (row >= rows) return;
    u32 out = 0;
    for (int bit = 0; bit < 8; ++bit) {
        const int j = (byte * 8 + bit) / bits;
        if (j >= fields) break;
        const int word = j / VQ_PER_LANE;
        u64 packed = stored[vq_word_at((int)at[row], word / 4, word % 4, chunks)];
        out |= (u32)(packed >> (j % VQ_PER_LANE * VQ_SLOT + (byte * 8 + bit) % bits) & 1) << bit;
    }
    codes[row * code_bytes + byte] = (u8)out;
}
