#include "net/by_host.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/seal.h"

namespace net {

using base::AddressKind;
using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

constexpr char kBookVersion = 1;
constexpr std::string_view kHostPurpose = "sluice kv host 1";
constexpr std::size_t kUnheardMax = 256;

void put_text(std::string& to, std::string_view text) {
    CHECK(text.size() < (std::size_t{1} << 16), text.size() << " bytes of address");
    to.push_back(static_cast<char>(text.size() & 0xff));
    to.push_back(static_cast<char>(text.size() >> 8));
    to += text;
}

/// Takes a text with its length off the front; false when it is cut.
bool take_text(std::string_view& from, std::string& text) {
    if (from.size() < 2) { return false; }
    const std::size_t bytes =
        static_cast<unsigned char>(from[0]) | (std::size_t{static_cast<unsigned char>(from[1])} << 8);
    from.remove_prefix(2);
    if (from.size() < bytes) { return false; }
    text = from.substr(0, bytes);
    from.remove_prefix(bytes);
    return true;
}

/// One line, or nothing.
std::string line_of(const char* file) {
    std::ifstream stream(file);
    std::string line;
    std::getline(stream, line);
    return line;
}

std::string link_of(const char* path) {
    std::error_code error;
    return std::filesystem::read_symlink(path, error).string();
}

class ByHostTransport final : public Transport {
public:
    ByHostTransport(const ByHostOptions& options, std::unique_ptr<Transport> local, std::unique_ptr<Transport> remote)
        : options_(options), local_(std::move(local)), remote_(std::move(remote)) {
        CHECK(local_ != nullptr || remote_ != nullptr);
        if (local_ != nullptr && remote_ != nullptr) {
            const AddressBook book{options_.host, local_->address(), remote_->address()};
            address_ = base::seal_address(options_.key, options_.life, write_address_book(book), AddressKind::book);
        } else {
            address_ = local_ != nullptr ? local_->address() : remote_->address();
        }
    }
    ~ByHostTransport() override { stop(); }

    std::string_view name() const override {
        if (local_ != nullptr && remote_ != nullptr) { return "auto"; }
        return local_ != nullptr ? local_->name() : remote_->name();
    }
    const std::string& address() const override { return address_; }
    Limits limits() const override {
        Limits limits = local_ != nullptr ? local_->limits() : remote_->limits();
        if (remote_ != nullptr) {
            limits.header_bytes_max = std::min(limits.header_bytes_max, remote_->limits().header_bytes_max);
            limits.payload_bytes_max = std::min(limits.payload_bytes_max, remote_->limits().payload_bytes_max);
        }
        return limits;
    }

    Result<void> start(Handler& handler) override {
        {
            const std::scoped_lock lock(handler_mutex_);
            handler_ = &handler;
        }
        if (remote_ != nullptr) {
            if (auto started = remote_->start(remote_side_); !started) { return started; }
        }
        if (local_ == nullptr) { return {}; }
        auto started = local_->start(local_side_);
        if (!started && remote_ != nullptr) { remote_->stop(); }
        return started;
    }

    Result<PeerId> connect(const std::string& address) override {
        const auto way = way_to(address);
        if (!way) { return base::pass_on(way); }
        if (way->is_remote) { return named(remote_->connect(way->address), true); }
        const std::scoped_lock lock(mutex_);  // before it, so that a loss that comes at once finds what was tried
        const auto peer = named(local_->connect(way->address), false);
        if (peer && remote_ != nullptr) { tried_.try_emplace(*peer, Tried{address, false}); }
        return peer;
    }

    Result<void> send(PeerId peer, Message message, base::TimePoint deadline, Completion done) override {
        Transport* const its = transport_of(peer);
        if (its == nullptr) { return fail(ErrorCode::unavailable, "peer " + std::to_string(raw(peer)) + " is gone"); }
        return its->send(inner(peer), std::move(message), deadline,
                         [this, done = std::move(done)](Result<void> outcome) {
                             const std::scoped_lock lock(handler_mutex_);
                             done(std::move(outcome));
                         });
    }
    void disconnect(PeerId peer) override {
        if (Transport* const its = transport_of(peer); its != nullptr) { its->disconnect(inner(peer)); }
    }
    void stop() override {
        if (local_ != nullptr) { local_->stop(); }
        if (remote_ != nullptr) { remote_->stop(); }
    }
    bool tick() override {
        const bool did = local_ != nullptr && local_->tick();
        return (remote_ != nullptr && remote_->tick()) || did;
    }

private:
    struct Way {
        bool is_remote;
        std::string address;
    };

    struct Tried {
        std::string address;  // a book
        bool is_heard;
    };

    /// What one of the two says, to the one handler, with peers by the names that it knows.
    class Side final : public Handler {
    public:
        Side(ByHostTransport& whole, bool is_remote) : whole_(whole), is_remote_(is_remote) {}

        Result<Target> on_header(PeerId from, MessageKind kind, std::span<const std::byte> header,
                                 std::size_t payload_bytes) override {
            const PeerId peer = outer(from, is_remote_);
            if (!is_remote_) { whole_.heard(peer); }
            const std::scoped_lock lock(whole_.handler_mutex_);
            return whole_.handler_->on_header(peer, kind, header, payload_bytes);
        }
        void on_payload(ReceiveToken token, Result<void> outcome) override {
            const std::scoped_lock lock(whole_.handler_mutex_);
            whole_.handler_->on_payload(token, std::move(outcome));
        }
        void on_peer_lost(PeerId peer, const base::Error& why) override {
            if (!is_remote_) { whole_.lost(outer(peer, false)); }
            const std::scoped_lock lock(whole_.handler_mutex_);
            whole_.handler_->on_peer_lost(outer(peer, is_remote_), why);
        }

    private:
        ByHostTransport& whole_;
        const bool is_remote_;
    };

    static PeerId outer(PeerId peer, bool is_remote) { return PeerId{raw(peer) * 2 + (is_remote ? 1 : 0)}; }
    static PeerId inner(PeerId peer) { return PeerId{raw(peer) / 2}; }
    static Result<PeerId> named(const Result<PeerId>& peer, bool is_remote) {
        if (!peer) { return peer; }
        return outer(*peer, is_remote);
    }
    Transport* transport_of(PeerId peer) const { return raw(peer) % 2 == 1 ? remote_.get() : local_.get(); }

    /// Error: permission_denied (sealed by nobody of this cluster), failed_precondition (nothing that both have).
    Result<Way> way_to(const std::string& address) {
        const auto is_kind = [&](AddressKind kind) {
            return base::open_address(options_.key, address, kind).has_value();
        };
        if (is_kind(AddressKind::ucx)) { return checked({false, address}); }
        if (is_kind(AddressKind::tls)) { return checked({true, address}); }
        const auto opened = base::open_address(options_.key, address, AddressKind::book);
        if (!opened) { return base::pass_on(opened); }
        const auto book = read_address_book(opened->address);
        if (!book) { return base::pass_on(book); }
        const std::scoped_lock lock(mutex_);
        const bool is_near = book->host == options_.host && local_ != nullptr && !unheard_.contains(address);
        if (is_near || remote_ == nullptr) { return checked({false, book->local}); }
        return checked({true, book->remote});
    }
    Result<Way> checked(Way way) const {
        if ((way.is_remote ? remote_ : local_) != nullptr) { return way; }
        return fail(ErrorCode::failed_precondition,
                    way.is_remote ? "the other worker is reached over TLS, which this one does not have "
                                    "(worker.kv_transport)"
                                  : "the other worker is reached over UCX, which this one does not have "
                                    "(worker.kv_transport)");
    }

    void heard(PeerId peer) {
        const std::scoped_lock lock(mutex_);
        if (const auto tried = tried_.find(peer); tried != tried_.end()) { tried->second.is_heard = true; }
    }
    void lost(PeerId peer) {
        const std::scoped_lock lock(mutex_);
        const auto tried = tried_.find(peer);
        if (tried == tried_.end()) { return; }
        if (!tried->second.is_heard) {
            if (unheard_.size() >= kUnheardMax) { unheard_.erase(unheard_.begin()); }
            unheard_.insert(std::move(tried->second.address));
        }
        tried_.erase(tried);
    }

    const ByHostOptions options_;
    const std::unique_ptr<Transport> local_;
    const std::unique_ptr<Transport> remote_;
    std::string address_;
    Side local_side_{*this, false};
    Side remote_side_{*this, true};

    std::mutex handler_mutex_;  // held while the handler or a completion runs: there are two threads, and it hears one
    Handler* handler_ = nullptr;

    std::mutex mutex_;               // guards what follows
    std::map<PeerId, Tried> tried_;  // peers of `local` that we connected to
    std::set<std::string> unheard_;  // addresses of those that were lost unheard: next time over `remote`
};

}  // namespace

HostId this_host(const base::HashKey& key) {
    struct stat shared_memory{};
    const std::string boot = line_of("/proc/sys/kernel/random/boot_id");
    const std::string processes = link_of("/proc/self/ns/pid");
    const std::string ipc = link_of("/proc/self/ns/ipc");
    std::string text;
    if (boot.empty() || processes.empty() || ipc.empty() || stat("/dev/shm", &shared_memory) != 0) {
        static const base::HashKey own = base::random_hash_key();
        text = base::format_hash_key(own);
    } else {
        text = boot + " " + processes + " " + ipc + " " + std::to_string(shared_memory.st_dev) + " " +
               std::to_string(shared_memory.st_ino) + " " + std::to_string(geteuid());
    }
    const base::Mac mac = base::make_mac(key, kHostPurpose, std::as_bytes(std::span(text)));
    HostId id;
    std::copy_n(mac.begin(), id.size(), id.begin());
    return id;
}

std::string write_address_book(const AddressBook& book) {
    std::string bytes(1, kBookVersion);
    bytes.append(reinterpret_cast<const char*>(book.host.data()), book.host.size());
    put_text(bytes, book.local);
    put_text(bytes, book.remote);
    return bytes;
}

Result<AddressBook> read_address_book(std::string_view bytes) {
    AddressBook book;
    std::string_view left = bytes;
    const bool is_long = left.size() > 1 + book.host.size() && left.front() == kBookVersion;
    if (is_long) {
        std::memcpy(book.host.data(), left.data() + 1, book.host.size());
        left.remove_prefix(1 + book.host.size());
    }
    if (!is_long || !take_text(left, book.local) || !take_text(left, book.remote) || !left.empty()) {
        return fail(ErrorCode::invalid_argument,
                    "a book of KV addresses of " + std::to_string(bytes.size()) + " bytes is none of this version");
    }
    return book;
}

std::unique_ptr<Transport> make_by_host_transport(const ByHostOptions& options, std::unique_ptr<Transport> local,
                                                  std::unique_ptr<Transport> remote) {
    return std::make_unique<ByHostTransport>(options, std::move(local), std::move(remote));
}

}  // namespace net
