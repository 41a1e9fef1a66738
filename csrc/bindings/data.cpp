// The room `data` for Python: operations on tokens, registered with torch, and functions of numpy arrays.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/data_on_cuda.h"
#include "bindings/rooms.h"
#include "data/admission.h"
#include "data/deck.h"
#include "data/kept_tokens.h"
#include "data/move_tokens.h"
#include "data/sort_values.h"
#include "data/token_statistics.h"

namespace merak::data {
namespace {

using at::Tensor;

constexpr std::int64_t kTokensPerThread = 64;

// What an operation moves, its index contiguous. `full` and `part` are contiguous.
TokenMove move_of(const char* operation, const Tensor& full, const Tensor& index) {
  TORCH_CHECK_VALUE(full.dim() >= 2, operation, ": tensors are [sequences, tokens, ...], this one has ", full.dim(),
                    " dimensions");
  TORCH_CHECK_VALUE(index.scalar_type() == at::kLong && index.dim() == 2 && index.size(0) == full.size(0), operation,
                    ": index must be int64, [", full.size(0), ", kept], not ", index.scalar_type(), ", ",
                    index.sizes());
  TORCH_CHECK_VALUE(index.size(1) <= full.size(1), operation, ": ", index.size(1), " tokens of ", full.size(1),
                    " cannot be kept");
  TORCH_CHECK_VALUE(index.device() == full.device(), operation, ": index is on ", index.device(), ", tokens on ",
                    full.device());
  const std::int64_t tokens = full.size(0) * full.size(1);
  const auto bytes = tokens == 0 ? 0 : full.nbytes() / static_cast<std::size_t>(tokens);
  const auto size = [](std::int64_t number) { return static_cast<std::size_t>(number); };
  return {size(full.size(0)), size(full.size(1)), size(index.size(1)), bytes, index.const_data_ptr<std::int64_t>()};
}

std::vector<std::int64_t> with_tokens(const Tensor& tensor, std::int64_t tokens) {
  std::vector<std::int64_t> sizes = tensor.sizes().vec();
  sizes.at(1) = tokens;
  return sizes;
}

// Calls move(place, what of some sequences, full, part) for all of them.
template <class Move>
void over_sequences(const TokenMove& all, std::size_t full_bytes, std::size_t part_bytes, Move move) {
  const std::size_t kept = std::max<std::size_t>(all.kept, 1);
  at::parallel_for(0, static_cast<std::int64_t>(all.sequences), std::max<std::int64_t>(kTokensPerThread / kept, 1),
                   [&](std::int64_t begin, std::int64_t end) {
                     TokenMove some = all;
                     some.sequences = static_cast<std::size_t>(end - begin);
                     some.index += static_cast<std::size_t>(begin) * all.kept;
                     move(some, static_cast<std::size_t>(begin) * full_bytes,
                          static_cast<std::size_t>(begin) * part_bytes);
                   });
}

void check_index(const char* operation, const TokenMove& move) {
  const std::size_t bad = first_bad_sequence(move);
  TORCH_CHECK_VALUE(bad == move.sequences, operation, ": the indices of sequence ", bad, " are not ascending numbers ",
                    "below ", move.length);
}

void gather(const TokenMove& move, const Tensor& full, Tensor& part) {
  if (full.is_cuda()) return gather_on_cuda(move, full, part);
  const auto* from = static_cast<const char*>(full.const_data_ptr());
  auto* to = static_cast<char*>(part.mutable_data_ptr());
  check_index("gather_tokens", move);
  over_sequences(move, move.length * move.token_bytes, move.kept * move.token_bytes,
                 [=](const TokenMove& some, std::size_t full_offset, std::size_t part_offset) {
                   gather_tokens(OnCpu{}, some, from + full_offset, to + part_offset);
                 });
}

void place(const char* operation, const TokenMove& move, const Tensor& part, Tensor& full) {
  if (full.is_cuda()) return place_on_cuda(move, part, full);
  const auto* from = static_cast<const char*>(part.const_data_ptr());
  auto* to = static_cast<char*>(full.mutable_data_ptr());
  check_index(operation, move);
  over_sequences(move, move.length * move.token_bytes, move.kept * move.token_bytes,
                 [=](const TokenMove& some, std::size_t full_offset, std::size_t part_offset) {
                   place_tokens(OnCpu{}, some, from + part_offset, to + full_offset);
                 });
}

Tensor gather_operation(const Tensor& full, const Tensor& index) {
  const Tensor from = full.contiguous(), which = index.contiguous();
  const TokenMove move = move_of("gather_tokens", from, which);
  Tensor part = at::empty(with_tokens(full, index.size(1)), full.options());
  gather(move, from, part);
  return part;
}

void check_part(const char* operation, const Tensor& full, const Tensor& part, const Tensor& index) {
  TORCH_CHECK_VALUE(part.sizes() == at::IntArrayRef(with_tokens(full, index.dim() == 2 ? index.size(1) : -1)),
                    operation, ": part is ", part.sizes(), ", which does not fit tokens of ", full.sizes(),
                    " and an index of ", index.sizes());
  TORCH_CHECK_VALUE(part.scalar_type() == full.scalar_type() && part.device() == full.device(), operation, ": part is ",
                    part.scalar_type(), " on ", part.device(), ", tokens are ", full.scalar_type(), " on ",
                    full.device());
}

Tensor place_operation(const Tensor& part, const Tensor& index, std::int64_t length) {
  TORCH_CHECK_VALUE(part.dim() >= 2 && length >= 0, "place_tokens: part must be [sequences, kept, ...]");
  const Tensor from = part.contiguous(), which = index.contiguous();
  Tensor full = at::zeros(with_tokens(part, length), part.options());
  const TokenMove move = move_of("place_tokens", full, which);
  check_part("place_tokens", full, part, index);
  place("place_tokens", move, from, full);
  return full;
}

Tensor scatter_operation(const Tensor& full, const Tensor& part, const Tensor& index) {
  TORCH_CHECK_VALUE(full.dim() >= 2, "scatter_tokens: tensors are [sequences, tokens, ...]");
  check_part("scatter_tokens", full, part, index);
  const Tensor from = part.contiguous(), which = index.contiguous();
  Tensor result = full.clone(at::MemoryFormat::Contiguous);
  place("scatter_tokens", move_of("scatter_tokens", result, which), from, result);
  return result;
}

void keep_operation(Tensor& index, std::int64_t length, std::int64_t seed, std::int64_t step, std::int64_t microbatch,
                    std::int64_t layer) {
  TORCH_CHECK_VALUE(index.dim() == 2 && index.scalar_type() == at::kLong && index.is_contiguous(),
                    "keep_tokens: index must be int64, [sequences, kept], contiguous");
  const std::int64_t kept = index.size(1);
  TORCH_CHECK_VALUE(kept >= 1 && kept <= length && length <= std::numeric_limits<std::uint32_t>::max(),
                    "keep_tokens: of ", length, " tokens ", kept, " cannot be kept");
  const auto number = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
  const KeptTokensOf of{number(seed), number(step), number(microbatch), number(layer)};
  const auto sequences = static_cast<std::size_t>(index.size(0));
  const auto tokens = static_cast<std::uint32_t>(length), some = static_cast<std::uint32_t>(kept);
  if (index.is_cuda()) return keep_on_cuda(of, tokens, index);
  keep_tokens(OnCpu{}, of, sequences, tokens, some, index.mutable_data_ptr<std::int64_t>());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(merak, library) {
  library.def("gather_tokens(Tensor full, Tensor index) -> Tensor");
  library.def("place_tokens(Tensor part, Tensor index, SymInt length) -> Tensor");
  library.def("scatter_tokens(Tensor full, Tensor part, Tensor index) -> Tensor");
  library.def("keep_tokens_(Tensor(a!) index, SymInt length, int seed, int step, int microbatch, int layer) -> ()");
}

namespace {

void implement(torch::Library& library) {
  library.impl("gather_tokens", &gather_operation);
  library.impl("place_tokens", &place_operation);
  library.impl("scatter_tokens", &scatter_operation);
  library.impl("keep_tokens_", &keep_operation);
}

}  // namespace

TORCH_LIBRARY_IMPL(merak, CPU, library) { implement(library); }
TORCH_LIBRARY_IMPL(merak, CUDA, library) { implement(library); }

namespace {

namespace py = pybind11;
using Doubles = py::array_t<double, py::array::c_style>;
using Integers = py::array_t<std::int64_t, py::array::c_style>;

// Calls use(tokens) with the elements of an array of integers.
template <class Use>
void with_tokens_of(const py::array& tokens, Use use) {
  if (tokens.ndim() != 1 || (tokens.flags() & py::array::c_style) == 0)
    throw py::value_error("tokens must be one contiguous array");
  const auto try_type = [&]<class Token>(Token) {
    if (!py::isinstance<py::array_t<Token>>(tokens)) return false;
    use(static_cast<const Token*>(tokens.data()));
    return true;
  };
  if (!(try_type(std::uint16_t{}) || try_type(std::int32_t{}) || try_type(std::int64_t{}) || try_type(std::uint8_t{}) ||
        try_type(std::int16_t{}) || try_type(std::uint32_t{}) || try_type(std::int8_t{})))
    throw py::value_error("tokens must be integers of 8 to 64 bits, unsigned ones of up to 32");
}

template <class Number>
py::array_t<Number, py::array::c_style> array_of(const std::vector<Number>& numbers) {
  return py::array_t<Number, py::array::c_style>(static_cast<py::ssize_t>(numbers.size()), numbers.data());
}

class TokenCounts {
 public:
  void add(const py::array& tokens) {
    with_tokens_of(tokens, [&](const auto* values) {
      const auto count = static_cast<std::size_t>(tokens.size());
      const py::gil_scoped_release no_gil;
      count_tokens(values, count, counts_);
    });
  }
  Integers counts() const { return array_of(counts_); }

 private:
  std::vector<std::int64_t> counts_;
};

Doubles rarity_costs_array(const Integers& counts) {
  const std::vector<double> costs = rarity_costs({counts.data(), counts.data() + counts.size()});
  return array_of(costs);
}

Doubles rarities(const py::array& tokens, const Integers& offsets, const Doubles& costs) {
  const auto samples = offsets.size() - 1;
  if (samples < 0 || offsets.at(0) < 0 || offsets.at(samples) > tokens.size() ||
      !std::is_sorted(offsets.data(), offsets.data() + offsets.size()))
    throw py::value_error("offsets must ascend, from 0 to the number of tokens");
  Doubles result(samples);
  const std::vector<double> table(costs.data(), costs.data() + costs.size());
  with_tokens_of(tokens, [&](const auto* values) {
    double* to = result.mutable_data();
    const std::int64_t* from = offsets.data();
    const py::gil_scoped_release no_gil;
    rarities_of(values, from, static_cast<std::size_t>(samples), table, to);
  });
  return result;
}

py::array_t<std::uint32_t, py::array::c_style> order_array(const Doubles& values, std::uint64_t seed) {
  std::vector<std::uint32_t> order;
  {
    const py::gil_scoped_release no_gil;
    order = ascending_order(values.data(), static_cast<std::size_t>(values.size()), seed);
  }
  return array_of(order);
}

// One metric: its values, the difficulty by step, whether in percentiles.
using Limit = std::tuple<Doubles, Doubles, bool>;

std::unique_ptr<Deck> make_deck(std::size_t samples, const std::vector<Limit>& limits, std::uint64_t batch,
                                std::uint64_t seed) {
  for (const auto& [values, table, by_percentile] : limits)
    if (static_cast<std::size_t>(values.size()) != samples)
      throw py::value_error("every metric needs one value a sample");
  const py::gil_scoped_release no_gil;
  Admission admission(samples);
  for (const auto& [values, table, by_percentile] : limits) {
    const PacingTable pacing(table.data(), table.data() + table.size());
    if (by_percentile)
      admission.limit_percentiles(values.data(), pacing, seed);
    else
      admission.limit_values(values.data(), pacing);
  }
  return std::make_unique<Deck>(admission.order(), batch, seed);
}

py::tuple draw(Deck& deck, std::uint64_t step) {
  const Deck::Batch batch = deck.draw(step);
  return py::make_tuple(batch.samples, batch.pass, deck.order().admitted_at(step));
}

}  // namespace
}  // namespace merak::data

namespace merak {

void bind_data(pybind11::module_& module) {
  namespace py = pybind11;
  using namespace data;
  py::class_<TokenCounts>(module, "TokenCounts")
      .def(py::init<>())
      .def("add", &TokenCounts::add, py::arg("tokens"))
      .def("counts", &TokenCounts::counts);
  module.def("rarity_costs", &rarity_costs_array, py::arg("counts"));
  module.def("rarities", &rarities, py::arg("tokens"), py::arg("offsets"), py::arg("costs"));
  module.def("ascending_order", &order_array, py::arg("values"), py::arg("seed") = 0);
  py::class_<Deck>(module, "CurriculumDeck")
      .def(py::init(&make_deck), py::arg("samples"), py::arg("limits"), py::arg("batch"), py::arg("seed"))
      .def("draw", &draw, py::arg("step"))
      .def_property_readonly("samples", [](const Deck& deck) { return deck.order().samples.size(); })
      .def(
          "admitted", [](const Deck& deck, std::uint64_t step) { return deck.order().admitted_at(step); },
          py::arg("step"));
}

}  // namespace merak
