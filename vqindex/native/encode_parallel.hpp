// Encoding and preparing queries on several threads, each with scratch memory of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>

#include "encode.hpp"
#include "parallel_rows.hpp"

namespace vqindex {

// Scratch memory for every thread, allocated before any of them starts.
class ThreadScratch {
 public:
  ThreadScratch(std::size_t bytes, std::size_t threads)
      : stride_((bytes + kAlign - 1) / kAlign * kAlign),
        memory_(::operator new(stride_ * threads, std::align_val_t{kAlign})) {}
  void* of(std::size_t thread) const { return static_cast<char*>(memory_.get()) + thread * stride_; }

 private:
  struct Delete {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{kAlign}); }
  };
  std::size_t stride_;
  std::unique_ptr<void, Delete> memory_;
};

// encode_rows on up to `threads` threads; `norm` is null for cosine.
inline void encode_parallel(const EncodeTables& tables, const float* rows, std::size_t n, std::size_t threads,
                            std::uint8_t* codes, float* rescale, float* norm, const std::string& isa) {
  const std::size_t d = tables.rotation.dim, bytes = code_bytes(tables);
  const std::size_t share = rows_per_thread(n, threads, kEncodeRows);
  const ThreadScratch scratch(encode_scratch(tables), n / share + 1);
  parallel_rows(n, share, [&](std::size_t thread, std::size_t begin, std::size_t end) {
    encode_rows(tables, rows + begin * d, end - begin, scratch.of(thread), codes + begin * bytes, rescale + begin,
                norm ? norm + begin : nullptr, isa);
  });
}

// prepare_queries on up to `threads` threads.
inline void prepare_parallel(const EncodeTables& tables, const float* queries, std::size_t n, std::size_t threads,
                             std::int16_t* code_query, float* code_scale, float* norm, const std::string& isa) {
  const std::size_t d = tables.rotation.dim, share = rows_per_thread(n, threads, kEncodeRows);
  const ThreadScratch scratch(prepare_scratch(tables, n), n / share + 1);
  parallel_rows(n, share, [&](std::size_t thread, std::size_t begin, std::size_t end) {
    prepare_queries(tables, queries + begin * d, end - begin, scratch.of(thread), code_query + begin * d,
                    code_scale + begin, norm + begin, isa);
  });
}

}  // namespace vqindex
