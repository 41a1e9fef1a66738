#pragma once
// Small programs for tests: written down by hand, or drawn from a seed.

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "sharding/program.h"

namespace merak::sharding {

class ProgramBuilder {
 public:
  explicit ProgramBuilder(Mesh mesh) { program_.mesh = std::move(mesh); }

  int value(const std::string& name, Shape shape, bool is_parameter = false) {
    double bytes = 4;
    for (std::int64_t size : shape) bytes *= static_cast<double>(size);
    program_.values.push_back({name, std::move(shape), bytes, true, is_parameter});
    return static_cast<int>(program_.values.size()) - 1;
  }

  int call(const std::string& calls, const std::vector<int>& operands, Shape shape,
           std::map<std::string, std::vector<std::int64_t>> args = {}) {
    const std::string name = calls + std::to_string(program_.operations.size());
    const int result = value(name, shape);
    std::vector<Shape> shapes;
    for (int operand : operands) shapes.push_back(program_.values[operand].shape);
    program_.operations.push_back({name, operands, {result}, rule_of({calls, shapes, {shape}, std::move(args)})});
    return result;
  }

  Program take() { return std::move(program_); }
  const Program& program() const { return program_; }

 private:
  Program program_;
};

// A transformer's block of width h on [b, s, h], with a norm before each half.
inline Program block(Mesh mesh, std::int64_t b, std::int64_t s, std::int64_t heads, std::int64_t width) {
  ProgramBuilder builder(std::move(mesh));
  const std::int64_t h = heads * width;
  const int x = builder.value("x", {b, s, h});
  const auto weight = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return builder.value(name, {out, in}, true);
  };
  const int norm = builder.call("layer_norm", {x}, {b, s, h}, {{"normalized_shape", {h}}});
  std::vector<int> parts;
  for (const char* name : {"q", "k", "v"}) {
    const int part = builder.call("linear", {norm, weight(name, h, h)}, {b, s, h});
    const int apart = builder.call("view", {part}, {b, s, heads, width});
    parts.push_back(builder.call("transpose", {apart}, {b, heads, s, width}, {{"dim0", {1}}, {"dim1", {2}}}));
  }
  const int attended = builder.call("scaled_dot_product_attention", parts, {b, heads, s, width});
  const int back = builder.call("transpose", {attended}, {b, s, heads, width}, {{"dim0", {1}}, {"dim1", {2}}});
  const int together = builder.call("reshape", {back}, {b, s, h});
  const int out = builder.call("linear", {together, weight("o", h, h)}, {b, s, h});
  const int sum = builder.call("add", {x, out}, {b, s, h});
  const int norm2 = builder.call("layer_norm", {sum}, {b, s, h}, {{"normalized_shape", {h}}});
  const int up = builder.call("linear", {norm2, weight("up", 4 * h, h)}, {b, s, 4 * h});
  const int act = builder.call("gelu", {up}, {b, s, 4 * h});
  const int down = builder.call("linear", {act, weight("down", h, 4 * h)}, {b, s, h});
  builder.call("add", {sum, down}, {b, s, h});
  return builder.take();
}

inline int value_called(const Program& program, const std::string& name) {
  for (std::size_t i = 0; i < program.values.size(); ++i)
    if (program.values[i].name == name) return static_cast<int>(i);
  return -1;
}

// Elementwise operations, products and transposes of matrices of a few sizes, whose operands are drawn at random.
inline Program random_program(std::mt19937& random, Mesh mesh) {
  ProgramBuilder builder(std::move(mesh));
  const auto below = [&](std::size_t n) { return static_cast<int>(random() % n); };
  const std::int64_t sizes[] = {4, 6, 8};
  std::vector<int> values;
  for (int i = 0; i < 4; ++i)
    values.push_back(builder.value("in" + std::to_string(i), {sizes[below(3)], sizes[below(3)]}, below(2) == 0));
  for (int i = 0; i < 12; ++i) {
    const int one = values[below(values.size())], other = values[below(values.size())];
    const Shape a = builder.program().values[one].shape, b = builder.program().values[other].shape;
    if (a == b) {
      values.push_back(builder.call("add", {one, other}, a));
    } else if (a[1] == b[0]) {
      values.push_back(builder.call("mm", {one, other}, {a[0], b[1]}));
    } else {
      values.push_back(builder.call("transpose", {one}, {a[1], a[0]}, {{"dim0", {0}}, {"dim1", {1}}}));
    }
  }
  return builder.take();
}

inline std::vector<Annotation> random_annotations(std::mt19937& random, const Program& program, int count) {
  std::vector<Annotation> annotations;
  for (int i = 0; i < count; ++i) {
    Annotation one{.value = static_cast<int>(random() % program.values.size()), .dim = static_cast<int>(random() % 2)};
    if (random() % 5) one.axes = {static_cast<int>(random() % program.mesh.size())};
    one.closed = random() % 3 == 0;
    one.priority = i;
    one.label = "wish " + std::to_string(i);
    annotations.push_back(one);
  }
  return annotations;
}

}  // namespace merak::sharding
