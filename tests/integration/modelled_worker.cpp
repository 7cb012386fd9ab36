// A worker that computes nothing, so that what a gateway costs can be measured alone (scripts/bench-gateway).
//   modelled_worker SCHEDULER MODEL CONTEXT_TOKENS STEP_US TOKEN_FIRST TOKEN_COUNT [fails]
// Takes part in a cluster as a mixed worker, with the key in SLUICE_CLUSTER_KEY. Prompts cost nothing; every sequence
// gets one token in each step, TOKEN_FIRST and the TOKEN_COUNT - 1 after it in turns. A step begins STEP_US after the
// one before (0: at once), and ends when gateways have room for what it said: one that reads slowly makes all wait.
// With `fails` every sequence ends with an error instead, at once: a worker that looks idle and does nothing right.
// Prints "serving" when the scheduler knows it and ends with its stdin.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "proto/channel.h"
#include "proto/header.h"
#include "proto/worker.grpc.pb.h"
#include "worker/registration.h"

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::uint32_t kSequencesMax = 16384;
constexpr std::uint64_t kNumericsId = 7;
constexpr milliseconds kHeartbeat{200};
constexpr milliseconds kIdlePause{1};
constexpr std::chrono::minutes kRegistrationMax{2};

struct Tokens {
    int first = 0;
    int count = 1;
    bool fails = false;  // there are none
};

/// The stream of one gateway. Thread-safe.
class Stream {
public:
    Stream(grpc::ServerReaderWriter<proto::WorkerEvent, proto::WorkerCommand>& wire, Tokens tokens)
        : wire_(&wire), tokens_(tokens) {}

    void take(const proto::WorkerCommand& command) {
        const std::scoped_lock lock(mutex_);
        if (command.has_start()) {
            const proto::Start& start = command.start();
            sequences_[{start.request_id(), start.epoch()}] = {static_cast<std::uint32_t>(start.generated_size()),
                                                               start.stop().new_tokens_max()};
        } else if (command.has_cancel()) {
            sequences_.erase({command.cancel().request_id(), command.cancel().epoch()});
        }
    }

    /// One token for each sequence, or a heartbeat where it is time for one. How many tokens there were.
    std::size_t step() {
        proto::WorkerEvent event;
        {
            const std::scoped_lock lock(mutex_);
            for (auto at = sequences_.begin(); at != sequences_.end();) {
                auto& [key, sequence] = *at;
                proto::SequenceOutput& output = *event.mutable_step()->add_sequences();
                output.set_request_id(key.first);
                output.set_epoch(key.second);
                if (tokens_.fails) {
                    output.set_finish(proto::SequenceOutput::FINISH_ERROR);
                    output.mutable_error()->set_code(grpc::StatusCode::UNAVAILABLE);
                    output.mutable_error()->set_message("this worker fails everything");
                    at = sequences_.erase(at);
                    continue;
                }
                output.add_tokens()->set_token(tokens_.first + static_cast<int>(sequence.made) % tokens_.count);
                if (++sequence.made >= sequence.most) { output.set_finish(proto::SequenceOutput::FINISH_LENGTH); }
                at = sequence.made >= sequence.most ? sequences_.erase(at) : std::next(at);
            }
        }
        const auto count = static_cast<std::size_t>(event.step().sequences_size());
        if (count == 0) {
            if (std::chrono::steady_clock::now() - written_at_ < kHeartbeat) { return 0; }
            event.set_heartbeat(true);
        }
        write(event);
        return count;
    }

    void write(const proto::WorkerEvent& event) {
        const std::scoped_lock lock(writing_);
        if (wire_ == nullptr) { return; }
        wire_->Write(event);
        written_at_ = std::chrono::steady_clock::now();
    }

    /// Nothing is written any more.
    void close() {
        const std::scoped_lock lock(writing_);
        wire_ = nullptr;
    }

private:
    struct Sequence {
        std::uint32_t made = 0;
        std::uint32_t most = 0;
    };

    std::mutex writing_;  // guards the next; held while gRPC writes
    grpc::ServerReaderWriter<proto::WorkerEvent, proto::WorkerCommand>* wire_;
    std::chrono::steady_clock::time_point written_at_;  // the stepping thread's, after the first

    const Tokens tokens_;
    std::mutex mutex_;                                                       // guards the next
    std::map<std::pair<std::uint64_t, std::uint32_t>, Sequence> sequences_;  // by request and epoch
};

/// Callers are not asked for the key: nothing but a benchmark on loopback talks to this.
class Service final : public proto::Worker::Service {
public:
    Service(std::string model, Tokens tokens) : model_(std::move(model)), tokens_(tokens) {}

    grpc::Status Serve(grpc::ServerContext*,
                       grpc::ServerReaderWriter<proto::WorkerEvent, proto::WorkerCommand>* wire) override {
        proto::WorkerCommand command;
        if (!wire->Read(&command) || !command.has_hello()) {
            return {grpc::StatusCode::FAILED_PRECONDITION, "the first command must be Hello"};
        }
        const auto stream = std::make_shared<Stream>(*wire, tokens_);
        proto::WorkerEvent reply;
        *reply.mutable_hello()->mutable_header() = proto::make_header(model_, kNumericsId);
        {
            const std::scoped_lock lock(mutex_);
            *reply.mutable_hello()->mutable_endpoint() = endpoint_;
            reply.mutable_hello()->set_heartbeat_ms(static_cast<std::uint32_t>(kHeartbeat.count()));
            stream->write(reply);
            streams_.push_back(stream);
        }
        while (wire->Read(&command)) {
            stream->take(command);
        }
        {
            const std::scoped_lock lock(mutex_);
            std::erase(streams_, stream);
        }
        stream->close();
        return grpc::Status::OK;
    }

    void set_endpoint(const proto::WorkerEndpoint& endpoint) {
        const std::scoped_lock lock(mutex_);
        endpoint_ = endpoint;
    }

    std::size_t step() {
        std::vector<std::shared_ptr<Stream>> streams;
        {
            const std::scoped_lock lock(mutex_);
            streams = streams_;
        }
        std::size_t tokens = 0;
        for (const auto& stream : streams) {
            tokens += stream->step();
        }
        return tokens;
    }

private:
    const std::string model_;
    const Tokens tokens_;
    std::mutex mutex_;  // guards all below
    proto::WorkerEndpoint endpoint_;
    std::vector<std::shared_ptr<Stream>> streams_;
};

proto::RegisterWorker registration_of(const std::string& model, std::uint32_t context_tokens, int port) {
    std::random_device random;
    const auto draw = [&] { return (std::uint64_t{random()} << 32 | random()) | 1; };
    proto::RegisterWorker registration;
    *registration.mutable_header() = proto::make_header(model, kNumericsId);
    registration.mutable_endpoint()->set_worker_id(draw());
    registration.mutable_endpoint()->set_incarnation(draw());
    registration.mutable_endpoint()->set_control_address("127.0.0.1:" + std::to_string(port));
    registration.set_life_secret(std::to_string(draw()));
    registration.set_role(proto::WORKER_ROLE_MIXED);
    registration.set_block_tokens(16);
    registration.set_context_tokens(context_tokens);
    registration.set_kv_blocks_total(1u << 28);  // no memory is ever short
    registration.set_batch_sequences_max(kSequencesMax);
    registration.set_batch_tokens_max(1u << 20);
    registration.set_queue_requests_max(kSequencesMax);
    return registration;
}

}  // namespace

int main(int argc, char** argv) {
    const char* const key_text = std::getenv("SLUICE_CLUSTER_KEY");
    const auto secret = base::parse_hash_key(key_text == nullptr ? "" : key_text);
    const bool fails = argc == 8 && std::string_view(argv[7]) == "fails";
    if ((argc != 7 && !fails) || !secret) {
        std::fprintf(stderr,
                     "usage: SLUICE_CLUSTER_KEY=... modelled_worker SCHEDULER MODEL CONTEXT_TOKENS STEP_US TOKEN_FIRST "
                     "TOKEN_COUNT [fails]\n");
        return 2;
    }
    const proto::ClusterKey key(*secret);
    const microseconds interval(std::atoi(argv[4]));
    Service service(argv[2], {.first = std::atoi(argv[5]), .count = std::max(1, std::atoi(argv[6])), .fails = fails});
    grpc::Service* const services[] = {&service};
    auto server = proto::start_server({.listen_address = "127.0.0.1:0", .key = key}, services);
    if (!server) {
        std::fprintf(stderr, "modelled_worker: %s\n", server.error().message.c_str());
        return 1;
    }
    const auto registration =
        registration_of(argv[2], static_cast<std::uint32_t>(std::max(1, std::atoi(argv[3]))), server->port);
    service.set_endpoint(registration.endpoint());

    const base::SystemClock clock;
    base::Metrics metrics;
    worker::ReportBoard board;
    board.note_progress(clock.now());
    proto::WorkerLoad load;
    load.set_blocks_free(static_cast<std::uint32_t>(registration.kv_blocks_total()));
    board.set_load(load);
    worker::Registration known({argv[1]}, registration, worker::WorkerOptions{}, board, clock, metrics, [] {}, key);
    std::jthread steps([&](const std::stop_token& stop) {
        auto next = std::chrono::steady_clock::now();
        while (!stop.stop_requested()) {
            board.note_progress(clock.now());
            const std::size_t tokens = service.step();
            next = std::max(next + interval, std::chrono::steady_clock::now());
            if (tokens == 0) { next = std::chrono::steady_clock::now() + kIdlePause; }
            std::this_thread::sleep_until(next);
        }
    });
    const auto give_up = std::chrono::steady_clock::now() + kRegistrationMax;
    while (!known.is_registered()) {
        if (std::chrono::steady_clock::now() > give_up) {
            std::fprintf(stderr, "modelled_worker: no scheduler at %s takes it\n", argv[1]);
            return 1;
        }
        std::this_thread::sleep_for(kIdlePause);
    }
    std::printf("serving\n");
    std::fflush(stdout);
    while (std::fgetc(stdin) != EOF) {}
    steps.request_stop();
    server->server->Shutdown(std::chrono::system_clock::now());  // ends a write that waits
    return 0;
}
