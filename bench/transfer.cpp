#include "bench/transfer.h"

#include <openssl/evp.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/tls_identity.h"
#include "bench/statistics.h"
#include "device/device.h"
#include "net/tls.h"
#include "net/ucx.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::fail;
using base::Result;

constexpr net::MessageKind kAsk{1};
constexpr net::MessageKind kAnswer{2};
constexpr net::MessageKind kBulk{3};
constexpr net::MessageKind kBlock{4};
constexpr auto kPatience = std::chrono::seconds(30);
constexpr std::size_t kRoundTrips = 1000;
constexpr std::uint64_t kIsBlock = std::uint64_t{1} << 32;  // in a token, above the buffer's number

double cpu_seconds() {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    return seconds(used.ru_utime) + seconds(used.ru_stime);
}

/// Of the kind of memory that a KV pool is: huge pages where there are any, of which a copy by the kernel has fewer to
/// look up.
device::Buffer pool_memory(std::size_t bytes) {
    auto buffer = device::host_device().allocate(bytes);
    CHECK(buffer.has_value(), bytes << " bytes");
    std::memset(buffer->data(), 7, bytes);
    return std::move(*buffer);
}

/// Either end: counts what comes, answers what asks. A block is answered by another one on the transport's own thread,
/// by the end that `echoes` always and by the other as long as trips are to be timed: no third thread has to wake up
/// for one, as where UCX times its own.
class End final : public net::Handler {
public:
    End(net::Transport& transport, const TransferBenchOptions& options, bool echoes)
        : transport_(transport),
          echoes_(echoes),
          message_bytes_(options.message_bytes),
          block_(pool_memory(options.block_bytes)) {
        for (std::uint32_t i = 0; i < 2 * options.in_flight; ++i) {
            buffers_.push_back(pool_memory(std::max(options.message_bytes, options.block_bytes)));
            free_.push_back(i);
        }
    }

    Result<net::Target> on_header(net::PeerId from, net::MessageKind kind, std::span<const std::byte>,
                                  std::size_t payload_bytes) override {
        if (kind == kAsk) {
            static_cast<void>(
                transport_.send(from, {kAnswer, "x", {}}, clock_.now() + kPatience, [](const Result<void>&) {}));
            return net::Target{};
        }
        const std::scoped_lock lock(mutex_);
        if (kind == kAnswer) {
            ++answers_;
            changed_.notify_all();
            return net::Target{};
        }
        if (free_.empty()) { return fail(ErrorCode::resource_exhausted, "no buffer"); }
        const std::uint32_t buffer = free_.back();
        free_.pop_back();
        if (kind == kBlock) { asker_ = from; }
        return net::Target{std::span(buffers_[buffer].data(), payload_bytes),
                           net::ReceiveToken{(kind == kBlock ? kIsBlock : 0) | (buffer + 1)}, clock_.now() + kPatience};
    }
    void on_payload(net::ReceiveToken token, Result<void> outcome) override {
        const bool is_block = (net::raw(token) & kIsBlock) != 0;
        if (is_block && outcome && echoes_) { send_block(asker_); }
        const std::scoped_lock lock(mutex_);
        const auto buffer = static_cast<std::uint32_t>((net::raw(token) & ~kIsBlock) - 1);
        free_.push_back(buffer);
        if (outcome && !is_block) { bytes_ += message_bytes_; }
        if (!outcome || !is_block || echoes_) { return; }
        const auto now = clock_.now();
        trips_us_.push_back(std::chrono::duration<double, std::micro>(now - trip_began_).count());
        trip_began_ = now;
        if (trips_us_.size() < kRoundTrips) {
            send_block(asker_);
        } else {
            changed_.notify_all();
        }
    }
    void on_peer_lost(net::PeerId, const base::Error& why) override {
        const std::scoped_lock lock(mutex_);
        lost_ = why.message;
        changed_.notify_all();
    }
    /// Keeps `count` messages under way for so long: each begins where another has ended, on the transport's thread.
    /// False: the connection is lost, or stands still.
    bool send_for(net::PeerId peer, std::span<const std::byte> data, std::uint32_t count, base::Duration time) {
        std::unique_lock lock(mutex_);
        send_until_ = clock_.now() + time;
        under_way_ = count;
        for (std::uint32_t i = 0; i < count; ++i) {
            send_bulk(peer, data);
        }
        const bool ended = changed_.wait_for(lock, time + kPatience, [&] { return under_way_ == 0 || !lost_.empty(); });
        return ended && lost_.empty();
    }
    std::uint64_t bytes() {
        const std::scoped_lock lock(mutex_);
        return bytes_;
    }
    /// The times of kRoundTrips blocks there and back, each of which begins where the one before has ended. Empty: the
    /// connection is lost, or stands still.
    std::vector<double> time_blocks(net::PeerId peer) {
        std::unique_lock lock(mutex_);
        trip_began_ = clock_.now();
        send_block(peer);
        const bool came =
            changed_.wait_for(lock, kPatience, [&] { return trips_us_.size() >= kRoundTrips || !lost_.empty(); });
        return came && lost_.empty() ? trips_us_ : std::vector<double>{};
    }
    bool wait_answers(int count) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, kPatience, [&] { return answers_ >= count || !lost_.empty(); }) && lost_.empty();
    }

private:
    /// With mutex_.
    void send_bulk(net::PeerId to, std::span<const std::byte> data) {
        const auto sent = transport_.send(to, {kBulk, "x", {data, nullptr}}, clock_.now() + kPatience,
                                          [this, to, data](const auto& outcome) {
                                              const std::scoped_lock lock(mutex_);
                                              if (outcome && clock_.now() < send_until_) { return send_bulk(to, data); }
                                              --under_way_;
                                              changed_.notify_all();
                                          });
        if (!sent) { lost_ = sent.error().message; }
    }
    void send_block(net::PeerId to) {
        static_cast<void>(transport_.send(to, {kBlock, "x", {std::span(block_.data(), block_.size()), nullptr}},
                                          clock_.now() + kPatience, [](const Result<void>&) {}));
    }

    net::Transport& transport_;
    const bool echoes_;
    const std::size_t message_bytes_;
    const device::Buffer block_;
    const base::SystemClock clock_;
    net::PeerId asker_{};  // transport's thread
    std::mutex mutex_;     // guards what follows
    std::condition_variable changed_;
    std::vector<device::Buffer> buffers_;
    std::vector<std::uint32_t> free_;
    std::uint64_t bytes_ = 0;
    base::TimePoint trip_began_{};
    std::vector<double> trips_us_;
    std::uint32_t under_way_ = 0;
    base::TimePoint send_until_{};
    int answers_ = 0;
    std::string lost_;
};

Result<std::unique_ptr<net::Transport>> make_transport(const std::string& name, std::size_t payload_bytes,
                                                       const base::Clock& clock) {
    const net::Limits limits{.payload_bytes_max = payload_bytes};
    if (name == "ucx") { return net::make_ucx_transport({.limits = limits}, clock); }
    if (name == "ucx-tcp") {
        return net::make_ucx_transport({.limits = limits, .net_devices = "lo", .transports = "tcp"}, clock);
    }
    if (name != "tls") {
        return fail(ErrorCode::invalid_argument, "no transport '" + name + "': there are ucx, ucx-tcp, tls");
    }
    auto identity = base::derive_tls_identity({});
    if (!identity) { return base::pass_on(identity); }
    net::TlsOptions options;
    options.limits = limits;
    options.certificate_pem = std::move(identity->certificate_pem);
    options.private_key_pem = std::move(identity->private_key_pem);
    return net::make_tls_transport(options, clock);
}

Result<TransferFigure> measure_one(const std::string& name, const TransferBenchOptions& options) {
    const base::SystemClock clock;
    const std::size_t payload_bytes = std::max(options.message_bytes, options.block_bytes);
    auto left = make_transport(name, payload_bytes, clock);
    if (!left) { return base::pass_on(left); }
    auto right = make_transport(name, payload_bytes, clock);
    if (!right) { return base::pass_on(right); }
    const device::Buffer all = pool_memory(options.message_bytes);
    const std::span<const std::byte> data(all.data(), all.size());
    End at_left(**left, options, false);
    End at_right(**right, options, true);
    const struct Stop {  // before what they use goes
        net::Transport& left;
        net::Transport& right;
        ~Stop() {
            left.stop();
            right.stop();
        }
    } stop{**left, **right};
    if (auto started = (*left)->start(at_left); !started) { return base::pass_on(started); }
    if (auto started = (*right)->start(at_right); !started) { return base::pass_on(started); }
    const auto peer = (*left)->connect((*right)->address());
    if (!peer) { return base::pass_on(peer); }
    const auto broken = [&] {
        return fail(ErrorCode::unavailable, name + ": the connection is lost, or stands still");
    };

    TransferFigure figure;
    figure.transport = name;
    int asked = 0;
    std::vector<double> trips;
    for (std::size_t i = 0; i < kRoundTrips; ++i) {
        const auto begin = clock.now();
        const auto sent = (*left)->send(*peer, {kAsk, "x", {}}, begin + kPatience, [](const Result<void>&) {});
        if (!sent || !at_left.wait_answers(++asked)) { return broken(); }
        trips.push_back(std::chrono::duration<double, std::micro>(clock.now() - begin).count());
    }
    figure.round_trip_us = summarize(std::move(trips)).p50;
    trips = at_left.time_blocks(*peer);
    if (trips.empty()) { return broken(); }
    figure.block_us = summarize(std::move(trips)).p50 / 2;

    const auto send_for = [&](base::Duration time) { return at_left.send_for(*peer, data, options.in_flight, time); };
    if (!send_for(std::chrono::milliseconds(100))) { return broken(); }
    const std::uint64_t bytes_before = at_right.bytes();
    const double cpu_before = cpu_seconds();
    const auto begin = clock.now();
    if (!send_for(std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(options.seconds)))) {
        return broken();
    }
    const double gigabytes = static_cast<double>(at_right.bytes() - bytes_before) / 1e9;
    figure.gigabytes_per_second = gigabytes / std::chrono::duration<double>(clock.now() - begin).count();
    figure.cpu_seconds_per_gigabyte = (cpu_seconds() - cpu_before) / std::max(gigabytes, 1e-9);
    return figure;
}

void measure_aes(double seconds, TransferReport& report) {
    constexpr int kRecordBytes = 16384;
    const std::vector<unsigned char> plain(kRecordBytes, 7);
    std::vector<unsigned char> secret(kRecordBytes + 16);
    const unsigned char key[16] = {1};
    unsigned char nonce[12] = {2};
    const std::unique_ptr<EVP_CIPHER_CTX, void (*)(EVP_CIPHER_CTX*)> context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
    CHECK(context != nullptr && EVP_EncryptInit_ex(context.get(), EVP_aes_128_gcm(), nullptr, key, nonce) == 1);
    std::uint64_t records = 0;
    const double cpu_before = cpu_seconds();
    const auto begin = std::chrono::steady_clock::now();
    std::chrono::duration<double> passed{};
    while (passed.count() < seconds) {
        for (int i = 0; i < 64; ++i, ++records) {
            nonce[0] = static_cast<unsigned char>(i);
            int bytes = 0;
            int rest = 0;
            CHECK(EVP_EncryptInit_ex(context.get(), nullptr, nullptr, nullptr, nonce) == 1 &&
                  EVP_EncryptUpdate(context.get(), secret.data(), &bytes, plain.data(), kRecordBytes) == 1 &&
                  EVP_EncryptFinal_ex(context.get(), secret.data() + bytes, &rest) == 1);
        }
        passed = std::chrono::steady_clock::now() - begin;
    }
    const double gigabytes = static_cast<double>(records) * kRecordBytes / 1e9;
    report.aes_128_gcm_gigabytes_per_second = gigabytes / passed.count();
    report.aes_128_gcm_cpu_seconds_per_gigabyte = (cpu_seconds() - cpu_before) / gigabytes;
}

boost::json::object json_of(const TransferBenchOptions& options, const TransferReport& report) {
    boost::json::array figures;
    for (const TransferFigure& figure : report.figures) {
        figures.push_back(boost::json::object{{"transport", figure.transport},
                                              {"gigabytes_per_second", figure.gigabytes_per_second},
                                              {"cpu_seconds_per_gigabyte", figure.cpu_seconds_per_gigabyte},
                                              {"round_trip_us", figure.round_trip_us},
                                              {"block_us", figure.block_us}});
    }
    return {{"message_bytes", options.message_bytes},
            {"in_flight", options.in_flight},
            {"block_bytes", options.block_bytes},
            {"figures", std::move(figures)},
            {"aes_128_gcm_gigabytes_per_second", report.aes_128_gcm_gigabytes_per_second},
            {"aes_128_gcm_cpu_seconds_per_gigabyte", report.aes_128_gcm_cpu_seconds_per_gigabyte}};
}

void print(const TransferReport& report) {
    std::printf("%-10s %10s %16s %16s %12s\n", "transport", "GB/s", "CPU s / GB", "round trip us", "block us");
    for (const TransferFigure& figure : report.figures) {
        std::printf("%-10s %10.2f %16.2f %16.1f %12.1f\n", figure.transport.c_str(), figure.gigabytes_per_second,
                    figure.cpu_seconds_per_gigabyte, figure.round_trip_us, figure.block_us);
    }
    std::printf("%-10s %10.2f %16.2f  (one thread encrypts, records of 16 KiB)\n", "AES-GCM",
                report.aes_128_gcm_gigabytes_per_second, report.aes_128_gcm_cpu_seconds_per_gigabyte);
}

}  // namespace

Result<TransferReport> measure_transfer(const TransferBenchOptions& options) {
    TransferReport report;
    for (const std::string& name : options.transports) {
        auto figure = measure_one(name, options);
        if (!figure) { return base::pass_on(figure); }
        report.figures.push_back(std::move(*figure));
    }
    measure_aes(std::min(options.seconds, 1.0), report);
    return report;
}

int bench_transfer_main(const TransferBenchOptions& options) {
    const auto report = measure_transfer(options);
    if (!report) {
        std::fprintf(stderr, "bench transfer: %s\n", report.error().message.c_str());
        return 1;
    }
    const std::string json = boost::json::serialize(json_of(options, *report));
    if (options.out_path == "-") {
        std::printf("%s\n", json.c_str());
        return 0;
    }
    print(*report);
    if (options.out_path.empty()) { return 0; }
    std::ofstream file{options.out_path};
    file << json << '\n';
    file.close();
    if (!file) {
        std::fprintf(stderr, "bench transfer: cannot write %s\n", options.out_path.c_str());
        return 1;
    }
    return 0;
}

void add_bench_transfer(CLI::App& app, TransferBenchOptions& options) {
    app.add_option("--transport", options.transports,
                   "ucx (shared memory), ucx-tcp (in the clear, over loopback), tls; several with commas")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("--message-bytes", options.message_bytes, "payload of one message")
        ->check(CLI::Range(std::size_t{1}, std::size_t{64} << 20))
        ->capture_default_str();
    app.add_option("--in-flight", options.in_flight, "messages that are on their way at once")
        ->check(CLI::Range(1u, 256u))
        ->capture_default_str();
    app.add_option("--block-bytes", options.block_bytes, "of the message whose latency is told")
        ->check(CLI::Range(std::size_t{1}, std::size_t{64} << 20))
        ->capture_default_str();
    app.add_option("--seconds", options.seconds, "of each measurement")
        ->check(CLI::Range(0.01, 600.0))
        ->capture_default_str();
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
}

}  // namespace bench
