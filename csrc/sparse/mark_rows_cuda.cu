#include "sparse/mark_rows.h"
#include "sparse/mark_rows_cuda.h"
#include "transport/for_each.h"

namespace merak {

void mark_rows_on_device(const void* table, std::size_t table_rows, std::size_t row_bytes, std::size_t element_bytes,
                         std::uint64_t* present, cudaStream_t stream) {
  constexpr std::size_t kStripBytes = 16;  // of a thread
  with_word(element_bytes, [&]<class Word>(Word) {
    const MarkRows<Word> body{static_cast<const Word*>(table), present, row_bytes / sizeof(Word),
                              kStripBytes / sizeof(Word)};
    for_each(OnCuda{stream}, table_rows * body.strips(), body);
  });
}

}  // namespace merak
