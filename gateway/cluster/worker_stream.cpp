#include "gateway/cluster/worker_stream.h"

#include <utility>

#include "proto/status.h"

namespace gateway {
namespace {

constexpr std::size_t kArenaBlockBytes = 2048;  // an event with some ten tokens
constexpr std::size_t kArenaBlockBytesMax = 64 * 1024;

}  // namespace

void LiveCount::change(int by) {
    const std::scoped_lock lock(mutex_);
    live_ += by;
    idle_.notify_all();
}

int LiveCount::wait(base::Duration patience) {
    std::unique_lock lock(mutex_);
    idle_.wait_for(lock, patience, [this] { return live_ == 0; });
    return live_;
}

WorkerStream::WorkerStream(const Setup& setup)
    : incarnation_(setup.endpoint.incarnation()),
      address_(setup.endpoint.control_address()),
      stub_(proto::Worker::NewStub(setup.channel)),
      post_(setup.post),
      owner_(setup.owner),
      live_(setup.live),
      inbox_bytes_max_(setup.inbox_bytes_max),
      heard_at_(setup.now) {}

void WorkerStream::open() {
    live_->change(1);
    self_ = shared_from_this();
    stub_->async()->Serve(&context_, this);
    AddHold();  // writes, and reads after a pause, start outside of reactions
    read();
    StartCall();
}

void WorkerStream::read() {
    google::protobuf::ArenaOptions options;
    options.start_block_size = kArenaBlockBytes;
    options.max_block_size = kArenaBlockBytesMax;
    reading_ = {.arena = std::make_unique<google::protobuf::Arena>(options)};
    reading_.event = google::protobuf::Arena::CreateMessage<proto::WorkerEvent>(reading_.arena.get());
    StartRead(reading_.event);
}

void WorkerStream::push(proto::WorkerCommand command) {
    if (dead_) { return; }
    commands_.push_back(std::move(command));
    pump();
}

void WorkerStream::abandon() {
    if (std::exchange(dead_, true)) { return; }
    commands_.clear();
    context_.TryCancel();
    RemoveHold();
}

bool WorkerStream::has_unread() const {
    const std::scoped_lock lock(mutex_);
    return !inbox_.empty();
}

void WorkerStream::OnReadDone(bool ok) {
    if (!ok) {
        post_([self = shared_from_this()] { self->abandon(); });
        return;
    }
    const std::size_t bytes = reading_.event->ByteSizeLong() + kEventBytes;
    reading_.bytes = bytes;
    bool is_first = false;
    bool reads_on = false;
    {
        const std::scoped_lock lock(mutex_);
        is_first = inbox_.empty();
        inbox_.push_back(std::exchange(reading_, {}));
        unhandled_bytes_ += bytes;
        reads_on = unhandled_bytes_ <= inbox_bytes_max_;
        is_paused_ = !reads_on;
    }
    // One post for all that gathers until it runs.
    if (is_first) {
        post_([self = shared_from_this()] { self->take_inbox(); });
    }
    if (reads_on) { read(); }
}

void WorkerStream::take_inbox() {
    std::vector<Waiting> taken;
    {
        const std::scoped_lock lock(mutex_);
        taken.swap(inbox_);
    }
    std::size_t bytes = 0;
    for (const Waiting& waiting : taken) {
        if (const auto owner = owner_.lock(); owner && !dead_) { owner->on_event(shared_from_this(), *waiting.event); }
        bytes += waiting.bytes;
    }
    bool reads_again = false;
    {
        const std::scoped_lock lock(mutex_);
        unhandled_bytes_ -= bytes;
        reads_again = is_paused_ && !dead_ && unhandled_bytes_ <= inbox_bytes_max_ / 2;
        if (reads_again) { is_paused_ = false; }
    }
    if (reads_again) { read(); }
}

void WorkerStream::OnWriteDone(bool ok) {
    if (!ok) { return; }  // the read fails too
    post_([self = shared_from_this()] {
        self->is_writing_ = false;
        if (!self->dead_) { self->pump(); }
    });
}

void WorkerStream::OnDone(const grpc::Status& status) {
    base::Error error{base::ErrorCode::unavailable, "the stream to the worker ended"};
    if (!status.ok()) { error = proto::error_of(status); }
    auto self = std::move(self_);
    post_([self, error] {
        if (const auto owner = self->owner_.lock()) { owner->on_closed(self, error); }
    });
    const auto live = live_;
    self.reset();
    live->change(-1);
}

void WorkerStream::pump() {
    if (is_writing_ || commands_.empty()) { return; }
    is_writing_ = true;
    writing_ = std::move(commands_.front());
    commands_.pop_front();
    StartWrite(&writing_);
}

}  // namespace gateway
