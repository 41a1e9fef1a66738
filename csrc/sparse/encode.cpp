#include "sparse/encode.h"

#include <numeric>

#include "sparse/whole_rows.h"

namespace merak {
namespace {

template <class T>
void encode(typename WideOf<T>::type* cells, const T* rows, const SignedRows& lists, std::size_t lanes) {
  using Body = EncodeRows<T, kCpuStrip<typename WideOf<T>::type>>;
  const Body body{cells, rows, lists.first.data(), lists.from.data(), lists.signs.data(), lanes};
  for_each_whole_row(body, lists.cells(), lists.from.size());
}

}  // namespace

SignedRows group_by_cell(std::span<const std::uint32_t> cell_of, std::span<const std::int8_t> sign_of,
                         std::uint32_t cells) {
  SignedRows lists{std::vector<std::uint32_t>(cells + 2), std::vector<std::uint32_t>(cell_of.size()),
                   std::vector<std::int8_t>(cell_of.size())};
  for (std::uint32_t cell : cell_of) ++lists.first[cell + 2];
  std::partial_sum(lists.first.begin(), lists.first.end(), lists.first.begin());
  for (std::uint32_t i = 0; i < cell_of.size(); ++i) {  // first[c + 1] moves from where cell c begins to where it ends
    const std::uint32_t at = lists.first[cell_of[i] + 1]++;
    lists.from[at] = i, lists.signs[at] = sign_of[i];
  }
  lists.first.pop_back();
  return lists;
}

void encode_rows(float* cells, const float* rows, const SignedRows& lists, std::size_t lanes) {
  encode(cells, rows, lists, lanes);
}
void encode_rows(double* cells, const double* rows, const SignedRows& lists, std::size_t lanes) {
  encode(cells, rows, lists, lanes);
}
void encode_rows(float* cells, const Half* rows, const SignedRows& lists, std::size_t lanes) {
  encode(cells, rows, lists, lanes);
}
void encode_rows(float* cells, const BFloat16* rows, const SignedRows& lists, std::size_t lanes) {
  encode(cells, rows, lists, lanes);
}

}  // namespace merak
