#pragma once
// For tests of transports: a rendezvous in memory, a place where links are reported, and blocking reads and writes.

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "transport/link.h"
#include "transport/operation.h"
#include "transport/rendezvous.h"

namespace merak {

inline constexpr auto kPatience = std::chrono::seconds(20);  // sanitizers and a busy machine are slow

// Repeats `attempt` until it returns true; fails the test when it never does.
template <class Attempt>
void eventually(Attempt attempt) {
  const auto until = Clock::now() + kPatience;
  while (!attempt()) {
    if (Clock::now() > until) throw std::runtime_error("what was waited for did not happen");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

class Meeting {
 public:
  void put(int rank, std::string address) {
    std::lock_guard lock(mutex_);
    addresses_[rank] = std::move(address);
  }
  std::optional<std::string> get(int rank) {
    std::lock_guard lock(mutex_);
    const auto found = addresses_.find(rank);
    return found == addresses_.end() ? std::nullopt : std::optional(found->second);
  }
  std::unique_ptr<Rendezvous> of(int rank) { return std::make_unique<Place>(*this, rank); }

 private:
  struct Place : Rendezvous {
    Place(Meeting& m, int r) : meeting(m), rank(r) {}
    void publish(const std::string& address) override { meeting.put(rank, address); }
    std::optional<std::string> lookup(int peer) override { return meeting.get(peer); }
    Meeting& meeting;
    const int rank;
  };

  std::mutex mutex_;
  std::map<int, std::string> addresses_;
};

// Collects what one transport reports.
class Reports {
 public:
  Transport::OnLink on_link() {
    return [this](int peer, std::unique_ptr<Link> link, const std::string& error) {
      std::lock_guard lock(mutex_);
      if (!reports_.try_emplace(peer, std::move(link), error).second) ADD_FAILURE() << "rank " << peer << " came twice";
      changed_.notify_all();
    };
  }

  // Waits for it; the link to `peer`. Throws when there was none.
  std::unique_ptr<Link> link(int peer) {
    auto [link, error] = take(peer);
    if (!link) throw std::runtime_error(error);
    return std::move(link);
  }
  std::string error(int peer) { return take(peer).second; }

  std::size_t count() {
    std::lock_guard lock(mutex_);
    return reports_.size();
  }

 private:
  std::pair<std::unique_ptr<Link>, std::string> take(int peer) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return reports_.count(peer) > 0; }))
      throw std::runtime_error("no report about rank " + std::to_string(peer));
    auto& [link, error] = reports_.at(peer);
    return {std::move(link), error};
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int, std::pair<std::unique_ptr<Link>, std::string>> reports_;
};

inline std::size_t write_some(Link& link, std::string_view bytes) {
  const iovec piece = {const_cast<char*>(bytes.data()), bytes.size()};
  return link.write({&piece, 1});
}

inline void write_all(Link& link, std::string_view bytes) {
  eventually([&] {
    bytes.remove_prefix(write_some(link, bytes));
    return bytes.empty();
  });
}

inline std::string read_some(Link& link, std::size_t most) {
  std::string bytes(most, '\0');
  const iovec piece = {bytes.data(), bytes.size()};
  bytes.resize(link.read({&piece, 1}));
  return bytes;
}

inline std::string read_exactly(Link& link, std::size_t count) {
  std::string bytes;
  eventually([&] {
    bytes += read_some(link, count - bytes.size());
    return bytes.size() == count;
  });
  return bytes;
}

// What read says when the stream has ended.
inline std::string end_of(Link& link) {
  std::string reason;
  eventually([&] {
    try {
      EXPECT_EQ(read_some(link, 1), "");
      return false;
    } catch (const LinkClosed& closed) {
      reason = closed.what();
      return true;
    }
  });
  return reason;
}

inline std::string pattern(std::size_t bytes, unsigned seed = 1) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>((i * 2654435761u + seed) >> 7);
  return text;
}

// The text of what `action` throws.
template <class Error, class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace merak
