#pragma once

#include <google/protobuf/arena.h>
#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "gateway/request/ports.h"
#include "proto/worker.grpc.pb.h"

namespace gateway {

/// Counts streams that gRPC still holds, so that their owner can wait for them. Thread-safe.
class LiveCount {
public:
    void change(int by);
    /// Until there are none, or for `patience`. How many there are then.
    int wait(base::Duration patience);

private:
    std::mutex mutex_;
    std::condition_variable idle_;
    int live_ = 0;  // guarded by mutex_
};

class WorkerStream;

/// What a stream tells, on the gateway's thread.
class WorkerStreamOwner {
public:
    virtual ~WorkerStreamOwner() = default;
    virtual void on_event(const std::shared_ptr<WorkerStream>& stream, const proto::WorkerEvent& event) = 0;
    /// Once, last, unless the stream was abandoned before.
    virtual void on_closed(const std::shared_ptr<WorkerStream>& stream, const base::Error& error) = 0;
};

/// One Serve stream to one life of a worker. gRPC's threads only fill its inbox, which is bounded: while more waits
/// there than `inbox_bytes_max`, nothing more is read from gRPC, so that HTTP/2's flow control holds the worker back,
/// and its own rule for gateways that read too slowly can act. Everything public is called on the gateway's thread,
/// reactions excepted.
class WorkerStream final : public grpc::ClientBidiReactor<proto::WorkerCommand, proto::WorkerEvent>,
                           public std::enable_shared_from_this<WorkerStream> {
public:
    /// Counted for every event besides its bytes on the wire, so that empty ones are bounded too.
    static constexpr std::size_t kEventBytes = 128;

    struct Setup {
        const proto::WorkerEndpoint& endpoint;
        std::shared_ptr<grpc::Channel> channel;
        Post post;
        std::weak_ptr<WorkerStreamOwner> owner;
        std::shared_ptr<LiveCount> live;
        base::TimePoint now;
        std::size_t inbox_bytes_max;  // > 0; one event more is taken, whatever its size
    };
    explicit WorkerStream(const Setup& setup);

    /// Once.
    void open();
    void push(proto::WorkerCommand command);
    /// Nothing more is written or told; gRPC lets go of the stream soon.
    void abandon();

    std::uint64_t incarnation() const { return incarnation_; }
    const std::string& address() const { return address_; }
    bool dead() const { return dead_; }
    std::size_t commands_waiting() const { return commands_.size(); }
    /// When the last event was taken from the inbox, or the stream was made.
    base::TimePoint heard_at() const { return heard_at_; }
    void heard(base::TimePoint now) { heard_at_ = now; }
    /// Something of the worker waits to be taken: its silence is ours.
    bool has_unread() const;
    bool greeted() const { return heartbeat_ > base::Duration::zero(); }
    /// As the worker promised; zero before its HelloReply.
    base::Duration heartbeat() const { return heartbeat_; }
    void greet(base::Duration heartbeat) { heartbeat_ = heartbeat; }

    void OnReadDone(bool ok) override;
    void OnWriteDone(bool ok) override;
    void OnDone(const grpc::Status& status) override;

private:
    /// An event with all that it holds in one arena: of each token's messages none is made and freed by itself, let
    /// alone by two threads.
    struct Waiting {
        std::unique_ptr<google::protobuf::Arena> arena;
        proto::WorkerEvent* event = nullptr;
        std::size_t bytes = 0;
    };
    void read();
    /// Hands what is in the inbox to the owner and reads on where reading had paused.
    void take_inbox();
    void pump();

    const std::uint64_t incarnation_;
    const std::string address_;
    std::unique_ptr<proto::Worker::Stub> stub_;
    Post post_;
    std::weak_ptr<WorkerStreamOwner> owner_;
    std::shared_ptr<LiveCount> live_;
    const std::size_t inbox_bytes_max_;
    grpc::ClientContext context_;
    std::shared_ptr<WorkerStream> self_;  // until OnDone

    // Gateway's thread.
    proto::WorkerCommand writing_;  // gRPC's, while is_writing_
    std::deque<proto::WorkerCommand> commands_;
    bool is_writing_ = false;
    bool dead_ = false;
    base::TimePoint heard_at_;
    base::Duration heartbeat_{};

    Waiting reading_;  // gRPC's, between StartRead and OnReadDone

    mutable std::mutex mutex_;         // guards all below
    std::vector<Waiting> inbox_;       // read and not yet taken
    std::size_t unhandled_bytes_ = 0;  // of the inbox and of what is being handled
    bool is_paused_ = false;           // no read is outstanding
};

}  // namespace gateway
