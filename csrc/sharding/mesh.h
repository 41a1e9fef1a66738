#pragma once
// A mesh of devices with named axes, and how one dimension of a tensor lies on it.
//
// A dimension is a product of *pieces*, major to minor, as a number is of digits; each piece may be divided over axes.
// Mostly there is one. Several are needed where a dimension is made of others: a weight of queries, keys and values
// is [{3}, {hidden, tp}], each of whose three parts is divided; heads of 16 that are divided over 3 ranks lie in a
// dimension [{4, tp}, {16}], since no head may be cut.
//
// A piece of size z over n ranks is cut into chunks of ceil(z / n), as torch.chunk and DTensor do; the last ranks may
// have fewer, or nothing. Over several axes, the chunks of the major one are cut again.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace merak::sharding {

struct Axis {
  std::string name;
  int size = 1;
};

using Mesh = std::vector<Axis>;
using Axes = std::vector<int>;  // of a mesh, major to minor

struct Piece {
  std::int64_t size = 1;
  Axes axes = {};

  bool operator==(const Piece&) const = default;
};

using Pieces = std::vector<Piece>;  // empty: a dimension of size 1

// How many ranks there are along these axes together.
int ranks_along(const Mesh& mesh, const Axes& axes);

// All axes of a dimension, in order.
Axes axes_of(const Pieces& pieces);

// The one form of a layout: without pieces of size 1, and with neighbours that need not be apart as one.
Pieces canonical(Pieces pieces, const Mesh& mesh);

// What a dimension is made of, for split(): a size, and whether it may be divided.
struct Part {
  std::int64_t size = 1;
  bool is_divisible = true;
};

// A dimension as a product of parts, the major first: the layout of each. The axes of a piece that is larger than a
// part go to the first part that may be divided. That may change how the dimension is cut (it has to be laid out anew
// as join() of what is returned): to say over which axes it lies is to leave open where it is cut. Nothing if no piece
// ends where a part does.
std::optional<std::vector<Pieces>> split(const Pieces& pieces, const std::vector<Part>& parts, const Mesh& mesh);
Pieces join(const std::vector<Pieces>& factors, const Mesh& mesh);

// The largest part of a dimension that any rank has.
std::int64_t local_size(const Pieces& pieces, const Mesh& mesh);

}  // namespace merak::sharding
