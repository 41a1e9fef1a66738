#include "backend/backend.h"

#include <ATen/Context.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <functional>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "backend/interruptible_wait.h"
#include "backend/store_rendezvous.h"
#include "backend/torch_errors.h"
#include "transport/environment.h"
#include "transport/errors.h"

namespace merak {
namespace {

constexpr auto kShutdownLinger = std::chrono::seconds(5);

GroupIdentity identity_of(const Backend::Options& options, int rank, int size) {
  return {.name = options.group_name.empty() ? "unnamed" : options.group_name,
          .rank = rank,
          .size = size,
          .global_ranks = options.global_ranks_in_group};
}

}  // namespace

Backend::Backend(c10::intrusive_ptr<c10d::Store> store, int rank, int size, c10::intrusive_ptr<Options> options,
                 Surroundings surroundings)
    : c10d::Backend(rank, size),
      options_(std::move(options)),
      surroundings_(std::move(surroundings)),
      store_(std::make_shared<TorchStore>(std::move(store))),
      membership_(Membership::create(
          identity_of(*options_, rank, size),
          tcp_transport_maker(store_, identity_of(*options_, rank, size), surroundings_.rendezvous_host))),
      meeting_(store_, membership_) {
  TORCH_CHECK_VALUE(rank >= 0 && rank < size, "merak: rank ", rank, " of a group of ", size, " ranks does not exist.");
  environment::check_all();
  init();
  if (size == 1) return;
  // What others may need before this rank needs anything of them. None of it waits.
  publish_token(*store_, rank);
  meeting_.publish_host();
}

Backend::~Backend() {
  const WithoutGil without_gil;  // a callback that is due may need it
  try {
    shutdown();
  } catch (const std::exception& e) {
    TORCH_WARN("merak: closing the group '", membership_->identity().name, "' failed: ", e.what());
  }
}

void Backend::setTimeout(std::chrono::milliseconds timeout) {
  options_->timeout = timeout;
  for (Backend* group : groups_over()) group->setTimeout(timeout);
  std::lock_guard lock(cuda_mutex_);
  if (cuda_) cuda_->setTimeout(timeout);
}

c10d::ErrorType Backend::getError() {
  const auto failure = membership_->failure();
  if (!failure) return c10d::ErrorType::SUCCESS;
  try {
    std::rethrow_exception(failure);
  } catch (const TimeoutError&) {
    return c10d::ErrorType::TIMEOUT;
  } catch (const NetworkError&) {
    return c10d::ErrorType::REMOTE_ERROR;
  } catch (...) {
    return c10d::ErrorType::COMM_ERROR;
  }
}

void Backend::abort() {
  if (membership_->forked()) return;  // all that follows is the parent's
  membership_->abort("ProcessGroup.abort() was called on rank " + std::to_string(getRank()));
  if (CudaPrograms* programs = existing_cuda_programs()) programs->abort();
  for (Backend* group : groups_over()) group->abort();
  std::lock_guard lock(cuda_mutex_);
  if (cuda_) cuda_->abort();
}

void Backend::shutdown() {
  if (membership_->forked()) return;  // all that follows is the parent's
  for (Backend* group : groups_over()) group->shutdown();
  if (CudaPrograms* programs = existing_cuda_programs()) programs->shutdown(kShutdownLinger);
  membership_->close(kShutdownLinger);
  store_->release();
  std::lock_guard lock(cuda_mutex_);
  if (cuda_) cuda_->shutdown();
}

c10::intrusive_ptr<c10d::Backend> Backend::split(const c10::intrusive_ptr<c10d::Store>& store,
                                                 const std::vector<int>& ranks,
                                                 const c10::intrusive_ptr<c10d::Backend::Options>& options) {
  const auto mine = std::find(ranks.begin(), ranks.end(), getRank());
  if (mine == ranks.end()) return nullptr;
  return merge(store, options, static_cast<int>(mine - ranks.begin()), static_cast<int>(ranks.size()));
}

c10::intrusive_ptr<c10d::Backend> Backend::merge(const c10::intrusive_ptr<c10d::Store>& store,
                                                 const c10::intrusive_ptr<c10d::Backend::Options>& options,
                                                 const int& rank, const int& size) {
  // The options may be those of another backend, of which only the common part means something here.
  auto own = c10::make_intrusive<Options>(options ? options->timeout : options_->timeout);
  if (options) own->group_name = options->group_name, own->group_desc = options->group_desc;
  if (options) own->global_ranks_in_group = options->global_ranks_in_group;
  return c10::make_intrusive<Backend>(store, rank, size, std::move(own), surroundings_);
}

c10::intrusive_ptr<Backend> Backend::over(const std::vector<int>& ranks) {
  const auto mine = std::find(ranks.begin(), ranks.end(), getRank());
  const bool rising = std::adjacent_find(ranks.begin(), ranks.end(), std::greater_equal<>()) == ranks.end();
  TORCH_CHECK_VALUE(rising && mine != ranks.end() && ranks.front() >= 0 && ranks.back() < getSize(),
                    "merak: a group over some ranks of a group names them in rising order, rank ", getRank(),
                    ", which makes it, among them.");
  const Topology& all = with_torch_errors([&]() -> const Topology& { return plans(options_->timeout).topology(); });
  const std::optional<Costs> measured = measured_costs();
  std::lock_guard lock(over_mutex_);
  c10::intrusive_ptr<Backend>& made = over_[ranks];
  if (made) {
    made->take_costs(measured);
    return made;
  }
  membership_->check_usable();
  Topology topology;
  for (int rank : ranks) topology.host_of.push_back(all.host_of.at(static_cast<std::size_t>(rank)));
  Hash hash;
  for (int rank : ranks) hash.add(static_cast<std::uint64_t>(rank));
  const std::string name = "over/" + std::to_string(ranks.size()) + "/" + std::to_string(hash.value());
  std::string listed;
  for (std::size_t i = 0; i < std::min<std::size_t>(ranks.size(), 8); ++i)
    listed += (i > 0 ? "," : "") + std::to_string(ranks[i]);
  if (ranks.size() > 8)
    listed += ",... (" + std::to_string(ranks.size()) + " ranks, #" + std::to_string(hash.value()) + ")";
  auto options = c10::make_intrusive<Options>(options_->timeout);
  options->group_name = options_->group_name + " over ranks " + listed;
  for (int rank : ranks)
    options->global_ranks_in_group.push_back(options_->global_ranks_in_group.empty()
                                                 ? static_cast<std::uint64_t>(rank)
                                                 : options_->global_ranks_in_group.at(rank));
  made = c10::make_intrusive<Backend>(c10::make_intrusive<c10d::PrefixStore>(name, store_->users()),
                                      static_cast<int>(mine - ranks.begin()), static_cast<int>(ranks.size()),
                                      std::move(options), surroundings_);
  made->plans_ = std::make_unique<Plans>(made->getRank(), std::move(topology));  // so that nobody has to be asked
  made->take_costs(measured);
  return made;
}

// Alive as long as this group is.
std::vector<Backend*> Backend::groups_over() {
  std::lock_guard lock(over_mutex_);
  std::vector<Backend*> groups;
  for (auto& [ranks, group] : over_)
    if (group) groups.push_back(group.get());
  return groups;
}

// CUDA tensors --------------------------------------------------------------------------------------------------------

c10d::Backend* Backend::cuda_backend() {
  std::lock_guard lock(cuda_mutex_);
  if (cuda_) return cuda_.get();
  membership_->check_usable();
  TORCH_CHECK_VALUE(surroundings_.make_cuda_backend, "merak: there is no backend for CUDA tensors in this group.");
  cuda_ = surroundings_.make_cuda_backend(store_->users(), getRank(), getSize(), options_->timeout,
                                          membership_->identity().name);
  return cuda_.get();
}

CudaPrograms* Backend::existing_cuda_programs() {
  std::lock_guard lock(cuda_mutex_);
  return cuda_programs_.get();
}

c10d::Backend* Backend::on_cuda(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return nullptr;
  c10d::Backend* backend = with_torch_errors([this] { return cuda_backend(); });
  if (CudaPrograms* programs = existing_cuda_programs()) programs->hold_back_current_stream();
  std::lock_guard lock(coalescing_mutex_);
  if (coalescing_ && !std::exchange(cuda_coalescing_, true)) backend->startCoalescing();
  return backend;
}

// Of two communicators on the same GPUs, the inner backend's and that of merak's own programs, each operation comes
// after those of the other that were started before: else one rank's GPU might be full of the first's kernels, and
// another's of the second's. Sends and receives are left out, which a rank may wait for that has to come to a
// collective first.
Backend::WorkPtr Backend::noted(WorkPtr on_cuda) {
  CudaPrograms* programs = existing_cuda_programs();
  if (on_cuda && programs) programs->come_after(on_cuda->getFuture());
  return on_cuda;
}

// Coalescing ----------------------------------------------------------------------------------------------------------

// Sends and receives on CPU gain nothing from being started together, and torch's coalescing manager leaves the group
// in a state in which later calls are lost when one in its block raises. NCCL's must be started together.
bool Backend::supportsCoalescing() const { return at::getNumGPUs() > 0; }

void Backend::startCoalescing() {
  std::lock_guard lock(coalescing_mutex_);
  coalesced_.clear();  // of a block that ended in an exception, which torch does not say; they go on
  coalescing_ = true;
}

Backend::WorkPtr Backend::endCoalescing() {
  std::lock_guard lock(coalescing_mutex_);
  TORCH_CHECK(coalescing_, "merak: endCoalescing() was called without startCoalescing().");
  coalescing_ = false;
  WorkPtr on_cuda = std::exchange(cuda_coalescing_, false) ? noted(cuda_->endCoalescing()) : nullptr;
  std::vector<WorkPtr> works = std::exchange(coalesced_, {});
  if (works.empty() && on_cuda) return on_cuda;
  if (on_cuda) works.push_back(std::move(on_cuda));
  return c10::make_intrusive<CoalescedWork>(getRank(), std::move(works));
}

}  // namespace merak
