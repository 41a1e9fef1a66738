#pragma once
// What the analyzer needs of tokens: how often each occurs, and the rarity of samples.
//
// The *rarity* of a sample is minus the sum of log p(token) over its tokens, p being how often a token occurs among all
// of the data set (E. Platanios et al., "Competence-based curriculum learning for neural machine translation", 2019):
// long samples of rare words are the hardest. `costs` are the numbers -log p.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace merak::data {

// Adds the tokens to `counts`, which grows as ids ask for it. Throws std::invalid_argument at an id below 0, or of
// kMostTokens and more: a table of so many would be no vocabulary.
inline constexpr std::int64_t kMostTokens = 1 << 28;

template <class Token>
void count_tokens(const Token* tokens, std::size_t count, std::vector<std::int64_t>& counts) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto token = static_cast<std::int64_t>(tokens[i]);
    if (token < 0 || token >= kMostTokens)
      throw std::invalid_argument("token id " + std::to_string(token) + " is none: ids count from 0 to " +
                                  std::to_string(kMostTokens - 1));
    if (token >= static_cast<std::int64_t>(counts.size())) counts.resize(static_cast<std::size_t>(token) + 1);
    ++counts[static_cast<std::size_t>(token)];
  }
}

// -log p by token. One that does not occur is taken to occur once, as a sample may have it that came later.
inline std::vector<double> rarity_costs(const std::vector<std::int64_t>& counts) {
  double total = 0;
  for (std::int64_t count : counts) total += static_cast<double>(std::max<std::int64_t>(count, 1));
  std::vector<double> costs;
  for (std::int64_t count : counts)
    costs.push_back(std::log(total) - std::log(static_cast<double>(std::max<std::int64_t>(count, 1))));
  return costs;
}

// Writes rarities[s] = sum of costs[token] over the tokens from offsets[s] to offsets[s + 1], in their order. Throws
// std::invalid_argument at an id that has no cost.
template <class Token>
void rarities_of(const Token* tokens, const std::int64_t* offsets, std::size_t samples,
                 const std::vector<double>& costs, double* rarities) {
  for (std::size_t sample = 0; sample < samples; ++sample) {
    double sum = 0;
    for (std::int64_t i = offsets[sample]; i < offsets[sample + 1]; ++i) {
      const auto token = static_cast<std::uint64_t>(tokens[i]);
      if (token >= costs.size())
        throw std::invalid_argument("token id " + std::to_string(static_cast<std::int64_t>(tokens[i])) +
                                    " was not there when tokens were counted: the data set has changed since");
      sum += costs[token];
    }
    rarities[sample] = sum;
  }
}

}  // namespace merak::data
