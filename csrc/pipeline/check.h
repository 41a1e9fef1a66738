#pragma once
// Says what is wrong with a schedule, before it runs.
//
// 1. Complete: every stage has, of every micro-batch, one F, then one B or one I and one W, and at most one R in
//    between; at most one REDUCE_GRAD, after its last B or W.
// 2. Matched: every value that crosses ranks has one SEND after what makes it, one RECV, and one WAIT between that and
//    its consumer; and nothing else is sent or received.
// 3. It ends: all ranks walk their lists; sends never wait; a WAIT goes on when its message was sent, and what needs a
//    value of its own rank when that was computed. If nobody can go on before the end, what each rank waits for is
//    said.
//
// A schedule without communication is checked as if each consumer waited for its producer.

#include <string>
#include <vector>

#include "pipeline/schedule.h"

namespace merak::pipeline {

// What is wrong, in words that name the rank, the position in its list and the action; at most `most` of it. Empty for
// a schedule that is right. Throws std::invalid_argument where check_bounds() does.
std::vector<std::string> check(const Schedule& schedule, std::size_t most = 10);

// Throws std::invalid_argument with what check() says.
void expect_right(const Schedule& schedule);

}  // namespace merak::pipeline
