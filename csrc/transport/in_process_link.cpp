#include "transport/in_process_link.h"

#include <array>
#include <mutex>

#include "transport/bell.h"
#include "transport/byte_queue.h"

namespace merak {
namespace {

struct Shared {
  explicit Shared(std::size_t capacity) : sent{ByteQueue(capacity), ByteQueue(capacity)} {}

  std::mutex mutex;
  std::array<ByteQueue, 2> sent;   // by each end
  std::array<bool, 2> finished{};  // this end will write no more
  std::array<bool, 2> closed{};    // this end is gone
  std::array<Bell, 2> bells;
};

class InProcessLink : public Link {
 public:
  InProcessLink(std::shared_ptr<Shared> shared, int end) : shared_(std::move(shared)), here_(end), there_(1 - end) {}

  ~InProcessLink() override {
    shared_->bells[here_].set({});
    {
      std::lock_guard lock(shared_->mutex);
      shared_->closed[here_] = true;
    }
    shared_->bells[there_].ring();
  }

  std::size_t write(std::span<const iovec> from) override {
    const std::size_t moved = push(from);
    if (moved > 0) shared_->bells[there_].ring();
    return moved;
  }

  std::size_t read(std::span<const iovec> to) override {
    const std::size_t moved = pop(to);
    if (moved > 0) shared_->bells[there_].ring();
    return moved;
  }

  void finish_writing() override {
    {
      std::lock_guard lock(shared_->mutex);
      shared_->finished[here_] = true;
    }
    shared_->bells[there_].ring();
  }

  bool drained() const override { return true; }  // what was written survives this end

  void set_wake(std::function<void()> wake) override { shared_->bells[here_].set(std::move(wake)); }

 private:
  std::size_t push(std::span<const iovec> from) {
    std::lock_guard lock(shared_->mutex);
    if (shared_->closed[there_]) throw LinkClosed("closed by the peer");
    return shared_->sent[here_].push(from);
  }

  std::size_t pop(std::span<const iovec> to) {
    std::lock_guard lock(shared_->mutex);
    ByteQueue& arrived = shared_->sent[there_];
    const bool ended = shared_->closed[there_] || shared_->finished[there_];
    if (arrived.size() == 0 && ended) throw LinkClosed("closed by the peer");
    return arrived.pop(to);
  }

  const std::shared_ptr<Shared> shared_;
  const int here_, there_;
};

}  // namespace

std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> in_process_link(std::size_t capacity) {
  const auto shared = std::make_shared<Shared>(capacity);
  return {std::make_unique<InProcessLink>(shared, 0), std::make_unique<InProcessLink>(shared, 1)};
}

}  // namespace merak
