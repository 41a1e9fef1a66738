#pragma once
// Adds what moves values between ranks to a schedule of computing.
//
// For each edge whose two stages are on different ranks, and each micro-batch:
//   - the SEND stands directly after the action that produces: F for a value, B or I for a gradient;
//   - the WAIT stands directly before the consumer, or before the consumer's R where that stands directly before it;
//   - the RECV stands some computing actions before the consumer: *receives ahead*. The buffer is there before the
//     message, so that the message need not wait for it. Each costs memory for as long.
// Between two ranks receives are posted in the order in which the other sends, earlier than said above if need be: so
// transports without tags, which match by order, can run the schedule too. An edge that skips stages is sent straight
// to the stage that needs it. Edges inside a rank need nothing.
//
// Pairs of actions that may overlap count as one: their waits stand before both, their sends after both.
//
// Two receives ahead are the default: in simulations of all kinds at p = 4, m = 32, more gain nothing while a message
// takes up to twice as long as a forward, and one loses up to a fifth, since under eager 1F1B two messages of an edge
// are on their way at once (docs/pipeline.md has the table).

#include <vector>

#include "pipeline/schedule.h"

namespace merak::pipeline {

inline constexpr int kReceivesAhead = 2;

// The schedule becomes one of these edges. Throws std::invalid_argument for a schedule that communicates already, for
// edges that do not lead to later stages, and for negative `receives_ahead`.
Schedule with_communication(const Schedule& schedule, std::vector<Edge> edges, int receives_ahead = kReceivesAhead);

// Whether between any two ranks messages are received in the order in which they are sent.
bool receives_as_sent(const Schedule& schedule);

// The WAITs alone, for a schedule that has the rest.
Schedule with_waits(const Schedule& schedule);

}  // namespace merak::pipeline
