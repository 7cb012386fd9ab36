// A worker's side of Attach against a scheduler that does what the test says, over a real loopback connection.
#include "worker/registration.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "proto/scheduler.grpc.pb.h"
#include "proto/version.h"

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using sluice::proto::Heartbeat;
using sluice::proto::WorkerDirective;
using sluice::proto::WorkerReport;
using worker::ReportBoard;

namespace {

constexpr auto kPatience = 30s;  // a hang is a failure, not a wait for ever

class ScriptedScheduler final : public sluice::proto::Scheduler::Service {
public:
    using Stream = grpc::ServerReaderWriter<WorkerDirective, WorkerReport>;

    ScriptedScheduler() {
        grpc::ServerBuilder builder;
        builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
        builder.RegisterService(this);
        server_ = builder.BuildAndStart();
        REQUIRE(server_ != nullptr);
    }
    ~ScriptedScheduler() override { server_->Shutdown(std::chrono::system_clock::now()); }

    std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

    grpc::Status Attach(grpc::ServerContext* context, Stream* stream) override {
        WorkerReport report;
        if (!stream->Read(&report) || !report.has_registration()) {
            return {grpc::StatusCode::INVALID_ARGUMENT, "no registration"};
        }
        {
            const std::scoped_lock lock(mutex_);
            if (stands_by_) { return {grpc::StatusCode::UNAVAILABLE, "this scheduler stands by"}; }
            registrations_.push_back(report.registration());
            heartbeats_.clear();
            context_ = context;
            stream_ = stream;
        }
        changed_.notify_all();
        while (stream->Read(&report)) {
            const std::scoped_lock lock(mutex_);
            if (report.has_registration()) {
                registrations_.push_back(report.registration());
            } else {
                heartbeats_.push_back(report.heartbeat());
            }
            changed_.notify_all();
        }
        const std::scoped_lock lock(mutex_);
        context_ = nullptr;
        stream_ = nullptr;
        return grpc::Status::OK;
    }

    /// From now on it stands by: streams end at once.
    void stand_by() {
        const std::scoped_lock lock(mutex_);
        stands_by_ = true;
        if (context_ != nullptr) { context_->TryCancel(); }
    }
    void lead() {
        const std::scoped_lock lock(mutex_);
        stands_by_ = false;
    }

    /// Waits for the `count`-th registration, counted from 1.
    sluice::proto::RegisterWorker registration(std::size_t count) {
        std::unique_lock lock(mutex_);
        REQUIRE(
            changed_.wait_for(lock, kPatience, [&] { return registrations_.size() >= count && stream_ != nullptr; }));
        return registrations_[count - 1];
    }
    /// The first heartbeat of the present stream that `wanted` likes.
    template <class Wanted>
    Heartbeat heartbeat(Wanted wanted) {
        std::unique_lock lock(mutex_);
        std::optional<Heartbeat> found;
        REQUIRE(changed_.wait_for(lock, kPatience, [&] {
            for (const Heartbeat& one : heartbeats_) {
                if (!found && wanted(one)) { found = one; }
            }
            return found.has_value();
        }));
        return *found;
    }
    void say(const WorkerDirective& directive) {
        const std::scoped_lock lock(mutex_);
        REQUIRE(stream_ != nullptr);
        REQUIRE(stream_->Write(directive));
    }
    void take_in(std::uint32_t heartbeat_ms, std::uint32_t lease_ms = 3'600'000, std::uint64_t epoch = 0,
                 std::uint32_t leader_silence_ms = 0) {
        WorkerDirective directive;
        directive.set_scheduler_epoch(epoch);
        directive.mutable_registered()->set_leader_silence_ms(leader_silence_ms);
        directive.mutable_registered()->set_scheduler_epoch(epoch);
        directive.mutable_registered()->set_heartbeat_ms(heartbeat_ms);
        directive.mutable_registered()->set_lease_ms(lease_ms);
        say(directive);
    }
    void cut() {
        const std::scoped_lock lock(mutex_);
        REQUIRE(context_ != nullptr);
        context_->TryCancel();
    }

private:
    int port_ = 0;
    std::mutex mutex_;  // guards all below up to the server
    bool stands_by_ = false;
    std::condition_variable changed_;
    std::vector<sluice::proto::RegisterWorker> registrations_;
    std::vector<Heartbeat> heartbeats_;  // of the present stream
    grpc::ServerContext* context_ = nullptr;
    Stream* stream_ = nullptr;
    std::unique_ptr<grpc::Server> server_;
};

/// A worker without a step loop: the test answers the board's wishes.
struct Worker {
    explicit Worker(const std::string& scheduler, worker::WorkerOptions options = {})
        : Worker(std::vector{scheduler}, options) {}
    explicit Worker(std::vector<std::string> schedulers, worker::WorkerOptions options = {})
        : registration(std::move(schedulers), message(), options, board, clock, metrics, [this] {
              board.set_draining();
              const std::scoped_lock lock(mutex);
              ++drains;
              changed.notify_all();
          }) {
        base::init_log({.role = "test", .level = "off"});
        board.note_progress(clock.now());  // a worker whose step thread stands still says nothing
        board.set_waker([this] {
            const std::scoped_lock lock(mutex);
            changed.notify_all();
        });
    }
    static sluice::proto::RegisterWorker message() {
        sluice::proto::RegisterWorker message;
        message.mutable_header()->set_protocol_version(proto::kProtocolVersion);
        message.mutable_endpoint()->set_worker_id(7);
        return message;
    }
    template <class Wanted>
    void wait_until(Wanted wanted) {
        std::unique_lock lock(mutex);
        REQUIRE(changed.wait_for(lock, kPatience, wanted));
    }
    /// What the step thread does when a snapshot is wanted.
    void tell_snapshot(std::uint64_t number) {
        wait_until([this] { return board.take_wish() == ReportBoard::Wish::snapshot; });
        board.add_block_events({.number = number, .snapshot = true, .stored = {{1, 2}}, .removed = {}});
    }

    base::FakeClock clock;
    base::Metrics metrics;
    ReportBoard board;
    std::mutex mutex;
    std::condition_variable changed;
    int drains = 0;  // guarded by mutex
    worker::Registration registration;
};

bool has_snapshot(const Heartbeat& heartbeat) {
    return heartbeat.blocks_size() > 0 && heartbeat.blocks(0).snapshot();
}

}  // namespace

TEST_CASE("a worker reports as often as the scheduler says, whatever its own heartbeats are", "[worker]") {
    ScriptedScheduler scheduler;
    worker::WorkerOptions options;
    options.heartbeat = 1h;
    Worker worker(scheduler.address(), options);
    REQUIRE(scheduler.registration(1).endpoint().worker_id() == 7);
    REQUIRE_FALSE(worker.registration.is_registered());
    scheduler.take_in(5);
    scheduler.heartbeat([](const Heartbeat& heartbeat) { return heartbeat.number() == 3; });
    REQUIRE(worker.registration.is_registered());
}

TEST_CASE("a lease holds three reports", "[worker]") {
    const auto interval = [](std::uint32_t heartbeat_ms, std::uint32_t lease_ms) {
        sluice::proto::Registered registered;
        registered.set_heartbeat_ms(heartbeat_ms);
        registered.set_lease_ms(lease_ms);
        return worker::report_interval(registered);
    };
    REQUIRE(interval(400, 5000) == 400ms);
    REQUIRE(interval(60'000, 3000) == 1000ms);
    REQUIRE(interval(60'000, 0) == 60s);
    REQUIRE(interval(0, 0) == 250ms);  // a scheduler that does not say
    REQUIRE(interval(0, 300) == 100ms);
    REQUIRE(interval(1, 1) == 5ms);
}

TEST_CASE("a worker that has nothing new to say reports less often, and with news at once when they are due",
          "[worker]") {
    sluice::proto::Registered registered;
    registered.set_heartbeat_ms(100);
    REQUIRE(worker::idle_report_interval(registered) == 100ms);  // a scheduler that does not say
    registered.set_idle_heartbeat_ms(500);
    REQUIRE(worker::idle_report_interval(registered) == 500ms);
    registered.set_idle_heartbeat_ms(50);
    REQUIRE(worker::idle_report_interval(registered) == 100ms);
    registered.set_idle_heartbeat_ms(5000);
    registered.set_lease_ms(3000);
    REQUIRE(worker::idle_report_interval(registered) == 1000ms);

    ScriptedScheduler scheduler;
    Worker worker(scheduler.address());
    scheduler.registration(1);
    WorkerDirective directive;
    directive.mutable_registered()->set_heartbeat_ms(5);
    directive.mutable_registered()->set_idle_heartbeat_ms(3'600'000);
    scheduler.say(directive);
    scheduler.heartbeat([](const Heartbeat& one) { return one.number() == 1; });
    // Each number comes with its news, so there was no report without any in between.
    for (std::uint64_t number = 1; number <= 3; ++number) {
        sluice::proto::WorkerLoad load;
        load.set_blocks_free(static_cast<std::uint32_t>(number));
        worker.board.set_load(load);
        const auto heartbeat =
            scheduler.heartbeat([&](const Heartbeat& one) { return one.load().blocks_free() == number; });
        REQUIRE(heartbeat.number() == number + 1);
    }
    worker.board.add_step({});
    REQUIRE(scheduler.heartbeat([](const Heartbeat& one) { return one.steps_size() == 1; }).number() == 5);
    worker.registration.report_soon();
    REQUIRE(scheduler.heartbeat([](const Heartbeat& one) { return one.number() == 6; }).steps_size() == 0);
}

TEST_CASE("the scheduler that takes a worker in is told its prefix index, and again when it asks", "[worker]") {
    ScriptedScheduler scheduler;
    Worker worker(scheduler.address());
    scheduler.registration(1);
    REQUIRE(worker.board.take_wish() == ReportBoard::Wish::nothing);  // nobody has answered yet
    scheduler.take_in(5);
    worker.tell_snapshot(1);
    scheduler.heartbeat(has_snapshot);
    WorkerDirective again;
    again.set_resend_snapshot(true);
    scheduler.say(again);
    worker.tell_snapshot(2);
    scheduler.heartbeat(
        [](const Heartbeat& heartbeat) { return has_snapshot(heartbeat) && heartbeat.blocks(0).number() == 2; });
}

TEST_CASE("a drain is acted on and reported at once", "[worker]") {
    ScriptedScheduler scheduler;
    Worker worker(scheduler.address());
    scheduler.registration(1);
    scheduler.take_in(3'600'000);
    WorkerDirective drain;
    drain.set_drain(true);
    scheduler.say(drain);
    worker.wait_until([&worker] { return worker.drains == 1; });
    scheduler.heartbeat([](const Heartbeat& heartbeat) { return heartbeat.load().draining(); });
}

TEST_CASE("a worker that has another role registers as that on the stream that is there, and on every later one",
          "[worker][turn]") {
    ScriptedScheduler scheduler;
    Worker worker(scheduler.address());
    scheduler.registration(1);
    scheduler.take_in(5);
    worker.board.set_draining();
    worker.registration.report_soon();
    scheduler.heartbeat([](const Heartbeat& one) { return one.load().draining(); });
    worker.registration.register_as(worker::Role::decode);
    worker.board.set_draining(false);
    worker.registration.report_soon();
    const auto second = scheduler.registration(2);
    CHECK(second.role() == sluice::proto::WORKER_ROLE_DECODE);
    CHECK(second.endpoint().worker_id() == 7);
    scheduler.heartbeat([](const Heartbeat& one) { return !one.load().draining(); });
    scheduler.cut();
    const auto third = scheduler.registration(3);
    CHECK(third.role() == sluice::proto::WORKER_ROLE_DECODE);
    CHECK_FALSE(third.draining());
}

TEST_CASE("a worker whose stream is closed, as at the end of its lease, registers again", "[worker]") {
    ScriptedScheduler scheduler;
    Worker worker(scheduler.address());
    scheduler.registration(1);
    scheduler.take_in(5);
    worker.tell_snapshot(1);
    scheduler.heartbeat(has_snapshot);
    scheduler.cut();
    REQUIRE(scheduler.registration(2).endpoint().worker_id() == 7);
    REQUIRE(worker.board.take_wish() == ReportBoard::Wish::nothing);
    scheduler.take_in(5);
    worker.tell_snapshot(2);  // the next one knows nothing
    REQUIRE(scheduler.heartbeat(has_snapshot).blocks(0).number() == 2);
}

TEST_CASE("a worker ends while there is no scheduler, or one that does not answer", "[worker]") {
    SECTION("nobody") {
        std::string address;
        {
            ScriptedScheduler gone;
            address = gone.address();
        }
        Worker worker(address);
        worker.registration.stop();
        REQUIRE_FALSE(worker.registration.is_registered());
    }
    SECTION("no answer") {
        ScriptedScheduler scheduler;
        Worker worker(scheduler.address());
        scheduler.registration(1);
        worker.registration.stop();
        REQUIRE_FALSE(worker.registration.is_registered());
    }
}

TEST_CASE("a worker tells each scheduler the highest epoch that it has seen, and whether it drains", "[worker]") {
    ScriptedScheduler scheduler;
    Worker worker(scheduler.address());
    const auto first = scheduler.registration(1);
    REQUIRE(first.scheduler_epoch() == 0);
    REQUIRE_FALSE(first.draining());
    scheduler.take_in(5, 3'600'000, 70);
    scheduler.heartbeat([](const Heartbeat&) { return true; });
    REQUIRE(worker.registration.scheduler_epoch() == 70);
    worker.board.set_draining();
    scheduler.cut();
    const auto second = scheduler.registration(2);
    REQUIRE(second.scheduler_epoch() == 70);
    REQUIRE(second.draining());
    scheduler.take_in(5, 3'600'000, 60);  // an older one: it is served, and not remembered
    scheduler.heartbeat([](const Heartbeat&) { return true; });
    REQUIRE(worker.registration.scheduler_epoch() == 70);
}

TEST_CASE("of several schedulers a worker follows the one that leads", "[worker][leader]") {
    ScriptedScheduler first;
    ScriptedScheduler second;
    second.stand_by();
    Worker worker(std::vector{second.address(), first.address()});
    first.registration(1);
    first.take_in(5, 3'600'000, 70, 3'600'000);
    first.heartbeat([](const Heartbeat&) { return true; });
    second.lead();
    first.stand_by();
    REQUIRE(second.registration(1).scheduler_epoch() == 70);
    second.take_in(5, 3'600'000, 71, 3'600'000);
    second.heartbeat([](const Heartbeat&) { return true; });
    REQUIRE(worker.registration.scheduler_epoch() == 71);
}

TEST_CASE("a scheduler that led by a lease and has an older epoch is left, and its orders are not followed",
          "[worker][leader]") {
    ScriptedScheduler older;
    ScriptedScheduler newer;
    newer.stand_by();
    Worker worker(std::vector{older.address(), newer.address()});
    older.registration(1);
    older.take_in(5, 3'600'000, 70, 3'600'000);
    older.heartbeat([](const Heartbeat&) { return true; });
    older.stand_by();
    newer.lead();
    newer.registration(1);
    newer.take_in(5, 3'600'000, 80, 3'600'000);
    newer.heartbeat([](const Heartbeat&) { return true; });

    older.lead();  // it was stopped, and woke
    newer.stand_by();
    REQUIRE(older.registration(2).scheduler_epoch() == 80);
    older.take_in(5, 3'600'000, 70, 3'600'000);
    older.registration(3);  // the stream was left, and after a look at the other one it comes again
    REQUIRE(worker.registration.scheduler_epoch() == 80);
    older.take_in(5, 3'600'000, 81, 3'600'000);
    older.heartbeat([](const Heartbeat&) { return true; });
    WorkerDirective drain;
    drain.set_drain(true);
    drain.set_scheduler_epoch(79);
    older.say(drain);
    older.registration(4);
    older.take_in(5, 3'600'000, 82, 3'600'000);
    older.heartbeat([](const Heartbeat& heartbeat) { return !heartbeat.load().draining(); });
    REQUIRE(worker.metrics.text().find("sluice_worker_fenced_commands_total 2\n") != std::string::npos);
    const std::scoped_lock lock(worker.mutex);
    REQUIRE(worker.drains == 0);
}

TEST_CASE("a leader that is silent for as long as its lease is left for another one", "[worker][leader]") {
    ScriptedScheduler silent;
    ScriptedScheduler other;
    Worker worker(std::vector{silent.address(), other.address()});
    silent.registration(1);
    silent.take_in(5, 3'600'000, 70, 10'000);
    silent.heartbeat([](const Heartbeat&) { return true; });
    const auto report_at = [&](std::chrono::seconds later) {
        worker.clock.advance(later);
        worker.board.note_progress(worker.clock.now());
        worker.registration.report_soon();
    };
    report_at(9s);
    WorkerDirective word;
    word.set_drain(true);
    word.set_scheduler_epoch(70);
    silent.say(word);
    worker.wait_until([&worker] { return worker.drains == 1; });
    const auto number = silent.heartbeat([](const Heartbeat& one) { return one.load().draining(); }).number();
    report_at(9s);  // 18 s after the registration, 9 s after the last word
    silent.heartbeat([number](const Heartbeat& one) { return one.number() > number; });
    report_at(2s);
    other.registration(1);
    other.take_in(5, 3'600'000, 71, 10'000);
    other.heartbeat([](const Heartbeat&) { return true; });
}
