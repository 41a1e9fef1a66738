#pragma once
// Links on their way out. Closing a socket at once may lose what was written to it last: when something unread lies in
// it, the system resets the connection. So a link that is given up is first written to the end, then read (and what
// comes thrown away) until the peer has closed its end too, or has everything, or time is up.

#include <list>
#include <memory>
#include <string>

#include "transport/link.h"
#include "transport/operation.h"

namespace merak {

class ClosingLinks {
 public:
  void add(std::unique_ptr<Link> link, std::string last_bytes, Clock::time_point until);
  void progress(Clock::time_point now);

  bool empty() const { return links_.empty(); }
  // Every peer has all that was written to it.
  bool delivered() const;

 private:
  struct Closing {
    std::unique_ptr<Link> link;
    std::string bytes;
    std::size_t written = 0;
    Clock::time_point until;
  };
  static bool over(Closing& closing, Clock::time_point now);

  std::list<Closing> links_;
};

}  // namespace merak
