#pragma once
// The forms that rules have: each gives the factors of a call to the builder. Which operation has which: rules.cpp.

#include "sharding/rule_builder.h"

namespace merak::sharding {

// Operands broadcast against the result, element by element.
void elementwise(RuleBuilder& b);
// The first operand's dimensions stay, but for the one named `dim`, which is needed whole.
void along_dim(RuleBuilder& b);
void layer_norm(RuleBuilder& b);
// Of the dimensions `dim`, or of all: sums, and what is no sum of parts.
void sum(RuleBuilder& b);
void whole_reduction(RuleBuilder& b);

// Products (forms_of_products.cpp).
void matmul(RuleBuilder& b);
void addmm(RuleBuilder& b);
void linear(RuleBuilder& b);
void embedding(RuleBuilder& b);
void attention(RuleBuilder& b);
void experts(RuleBuilder& b);

void cross_entropy(RuleBuilder& b);
void loss_of_pairs(RuleBuilder& b);
void by_channel(RuleBuilder& b);
void batch_norm(RuleBuilder& b);
void group_norm(RuleBuilder& b);
void replicated(RuleBuilder& b);

// Shapes (forms_of_shapes.cpp).
void view(RuleBuilder& b);
void transpose(RuleBuilder& b);
void permute(RuleBuilder& b);
void reversed(RuleBuilder& b);
void select(RuleBuilder& b);
void parts(RuleBuilder& b);
void broadcast_together(RuleBuilder& b);
void triangle(RuleBuilder& b);
void gather(RuleBuilder& b);
void tokens(RuleBuilder& b);

// Windows (forms_of_windows.cpp).
void convolution(RuleBuilder& b);
void pool(RuleBuilder& b);
void enlarged(RuleBuilder& b);
void slice(RuleBuilder& b);
void narrow(RuleBuilder& b);
void padded(RuleBuilder& b);
void joined(RuleBuilder& b);
void roll(RuleBuilder& b);
void flip(RuleBuilder& b);

}  // namespace merak::sharding
