// The product of queries and rows in tile registers, and the pairs that pass their limits. kernels_amx.cpp and
// kernels_tiles_emulated.cpp include this file inside their namespaces. They define
//
//   VQ_T                               the target attribute
//   VQ_TILES                           declares what the instructions need
//   VQ_TILE_ZERO(t)                    clears tile t
//   VQ_TILE_LOAD(t, address)           loads 16 rows of 64 bytes that follow each other
//   VQ_TILE_DOT(c, a, b)               adds the product of int8 tiles a and b to the int32 tile c
//   VQ_TILE_STORE(t, address)          stores 16 rows of 64 bytes
//   mask_of_32<D>(call, q, rows, sums) bit r: the sum of query q and row rows + r passes its limit; D: distances
//
// Two tiles of queries and two of rows give four tiles of sums, so each tile that is loaded serves two products:
//
//                rows 0..15   16..31
//   queries  0..15   tile 0   tile 1        sums[256 * t + 16 * (query % 16) + row % 16]
//           16..31   tile 2   tile 3
//
// The unit multiplies 32 rows while other instructions test the sums of the 32 rows before: each step of 64 coordinates
// is followed by the tests of some queries.

constexpr std::size_t kTileSums = kTileQueries * kTileRows;
constexpr std::size_t kTileBytes = 1024;

// The sums of one query with the first 16 rows; those with the other 16 follow 256 further.
VQ_INLINE const std::int32_t* sums_of_query(const std::int32_t* sums, std::size_t q) {
  return sums + q / 16 * 512 + q % 16 * 16;
}

template <bool DISTANCE>
VQ_T VQ_INLINE std::size_t find_hits_of(const TileCall& call, TileHit* hits) {
  VQ_TILES
  alignas(64) std::int32_t sums[2][kTileSums];
  std::uint32_t masks[kTileQueries];
  const std::size_t steps = call.stride / 64, tiles = steps * kTileBytes;  // bytes of 16 rows or queries
  std::size_t found = 0;
  std::uint32_t any = 0;
  const auto test = [&](std::size_t rows, const std::int32_t* some, std::size_t from, std::size_t to) VQ_T {
    for (std::size_t q = from; q < to; ++q)
      any |= masks[q] = mask_of_32<DISTANCE>(call, q, rows, sums_of_query(some, q));
  };
  const auto list = [&](std::size_t rows, const std::int32_t* some) {
    for (std::size_t q = 0; any && q < kTileQueries; ++q)
      for (std::uint32_t bits = masks[q]; bits; bits &= bits - 1) {
        const std::size_t r = lowest_bit(bits);
        hits[found++] = {static_cast<std::uint16_t>(rows + r), static_cast<std::uint16_t>(q),
                         sums_of_query(some, q)[r / 16 * 256 + r % 16]};
      }
    any = 0;
  };
  for (std::size_t at = 0; at < call.row_count; at += kTileRows) {
    const std::int8_t *a = call.queries, *b = call.rows + at * call.stride;
    const std::int32_t* before = sums[(at / kTileRows + 1) % 2];
    VQ_TILE_ZERO(0);
    VQ_TILE_ZERO(1);
    VQ_TILE_ZERO(2);
    VQ_TILE_ZERO(3);
    for (std::size_t s = 0; s < steps; ++s, a += kTileBytes, b += kTileBytes) {
      VQ_TILE_LOAD(4, a);
      VQ_TILE_LOAD(6, b);
      VQ_TILE_LOAD(5, a + tiles);
      VQ_TILE_LOAD(7, b + tiles);
      VQ_TILE_DOT(0, 4, 6);
      VQ_TILE_DOT(1, 4, 7);
      VQ_TILE_DOT(2, 5, 6);
      VQ_TILE_DOT(3, 5, 7);
      if (at) test(at - kTileRows, before, s * kTileQueries / steps, (s + 1) * kTileQueries / steps);
    }
    if (at) list(at - kTileRows, before);
    std::int32_t* now = sums[at / kTileRows % 2];
    VQ_TILE_STORE(0, now);
    VQ_TILE_STORE(1, now + 256);
    VQ_TILE_STORE(2, now + 512);
    VQ_TILE_STORE(3, now + 768);
  }
  if (!call.row_count) return 0;
  const std::size_t last = call.row_count - kTileRows;
  test(last, sums[last / kTileRows % 2], 0, kTileQueries);
  list(last, sums[last / kTileRows % 2]);
  return found;
}

VQ_T std::size_t find_hits(const TileCall& call, TileHit* hits) {
  return call.distance ? find_hits_of<true>(call, hits) : find_hits_of<false>(call, hits);
}
