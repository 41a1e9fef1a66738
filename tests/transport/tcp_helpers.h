#pragma once
// For tests of TCP: sockets that know nothing of merak, and groups of transports.

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "transport/link_helpers.h"
#include "transport/log.h"
#include "transport/socket_address.h"
#include "transport/tcp_link.h"
#include "transport/tcp_transport.h"

namespace merak {

// These tests are refused on purpose; the log reads its level once.
inline const bool kQuiet = ::setenv("MERAK_LOG_LEVEL", "error", /*overwrite=*/0) == 0 && logs(LogLevel::kError);

// A blocking client, as anybody could write it.
class Stranger {
 public:
  explicit Stranger(const SocketAddress& to) : socket_(::socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (::connect(socket_, to.get(), to.size()) != 0) throw std::runtime_error("connect");
    const timeval limit = {.tv_sec = 20, .tv_usec = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  Stranger(Stranger&& other) noexcept : socket_(std::exchange(other.socket_, -1)) {}
  ~Stranger() { close(); }

  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  bool say(std::string_view bytes) {
    return ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  // All bytes until the other end closes.
  std::string hear() {
    std::string heard;
    char bytes[256];
    for (ssize_t got; (got = ::recv(socket_, bytes, sizeof bytes, 0)) > 0;) heard.append(bytes, got);
    return heard;
  }
  int socket() const { return socket_; }

 private:
  int socket_;
};

// A listening socket that accepts nothing by itself.
class Deaf {
 public:
  explicit Deaf(const char* host = "127.0.0.1") : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const SocketAddress address = SocketAddress::parse_host(host);
    if (::bind(socket_, address.get(), address.size()) != 0 || ::listen(socket_, 16) != 0)
      throw std::runtime_error("listen");
  }
  ~Deaf() { ::close(socket_); }
  SocketAddress address() const { return SocketAddress::here(socket_); }
  int socket() const { return socket_; }
  int accept() const { return ::accept4(socket_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC); }

 private:
  int socket_;
};

// Both ends of a TCP connection.
inline std::pair<std::unique_ptr<TcpLink>, std::unique_ptr<TcpLink>> tcp_link_pair() {
  const Deaf listener;
  const SocketAddress to = listener.address();
  Descriptor here = Descriptor::open([] { return ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); });
  if (::connect(here.get(), to.get(), to.size()) != 0) throw std::runtime_error("connect");
  ::fcntl(here.get(), F_SETFL, O_NONBLOCK);
  Descriptor there = Descriptor::open([&] { return listener.accept(); });
  return {std::make_unique<TcpLink>(std::move(here)), std::make_unique<TcpLink>(std::move(there))};
}

// One rank: its transport and what that reported.
struct TcpRank {
  TcpRank(int rank, int size, const Token& token, Meeting& meeting, TcpOptions options = {})
      : transport(std::make_unique<TcpTransport>(rank, size, token, meeting.of(rank), options)) {
    transport->start(reports.on_link());
  }
  Reports reports;
  std::unique_ptr<TcpTransport> transport;  // closes before the reports go
};

inline std::size_t entries(const char* folder) {
  const auto files = std::filesystem::directory_iterator(folder);
  return std::distance(begin(files), end(files));
}
inline std::size_t open_descriptors() { return entries("/proc/self/fd"); }
inline std::size_t running_threads() { return entries("/proc/self/task"); }

}  // namespace merak
