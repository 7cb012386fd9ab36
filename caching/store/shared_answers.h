#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "caching/store/shared_document.h"
#include "caching/store/shared_server.h"

namespace caching {

/// Answers that gateways share, and what is purged for all of them, on a thread of its own: nobody who asks waits for
/// the server. A server that is away, slow, full or foreign costs misses and is never asked by who would have to wait:
/// look_up() says at once that nobody will answer.
///
/// What was purged is never served again, wherever it was purged: a document says up to which purge its gateway knew
/// the log when the model began, and who reads it looks at the rest of the log, which comes with it. What this gateway
/// keeps itself may be served while is_current(): the log has been read to its end within the lease, and all that it
/// says is gone here. A server that is started anew may have lost purges: its documents, and what gateways keep, count
/// no more.
class SharedAnswers {
public:
    struct Setup {
        SharedServer::Options server;
        base::HashKey key{};                                     // that documents are sealed under
        base::Duration patience = std::chrono::milliseconds(2);  // a server that is busy for longer is not asked
        base::Duration lease = std::chrono::seconds(2);
        std::size_t tasks_max = 4096;  // that wait; more are lost: misses
        const base::Clock& clock;      // borrowed
        /// To the thread of who asks, in order; the other two are called there. What was posted must not run after this
        /// is gone.
        std::function<void(std::function<void()>)> post;
        /// What is meant is to go. False: not now; it is told again.
        std::function<bool(const SharedPurge&)> purged;
        /// Everything is to go. False: likewise.
        std::function<bool()> forget;
    };
    using Found = std::function<void(std::optional<SavedAnswer>)>;
    struct Counts {
        std::uint64_t written = 0;
        std::uint64_t lost = 0;     // documents that did not get there
        std::uint64_t refused = 0;  // that were there and not served: purged, sealed by others, of another life
    };

    explicit SharedAnswers(Setup setup);
    /// Writes what waits, as long as the server takes it.
    ~SharedAnswers();

    /// False: `found` is never called; the server is away or has too much to do.
    [[nodiscard]] bool look_up(const base::BlockHash& name, Found found);
    /// What is known here now, for keep() later. Any thread.
    SharedMoment now() const;
    /// False: it is lost. `since`: now(), when the model began with it.
    bool keep(SavedAnswer answer, const SharedMoment& since);
    /// Tells all gateways. An error: nobody knows whether they will hear of it. False: `done` is never called.
    [[nodiscard]] bool purge(SharedPurge purge, std::function<void(base::Result<void>)> done);

    /// Whether answers that are kept here may be served. Any thread.
    bool is_current() const;
    bool is_up() const { return is_up_; }
    Counts counts() const { return {written_, lost_, refused_}; }
    const ServerAddress& address() const { return setup_.server.address; }

private:
    struct Ask {
        base::BlockHash name;
        Found found;
    };
    struct Keep {
        SavedAnswer answer;
        SharedMoment since;
    };
    struct Purge {
        SharedPurge purge;
        std::function<void(base::Result<void>)> done;
    };
    struct Look {};  // at the log, now
    using Task = std::variant<Ask, Keep, Purge, Look>;
    struct Sweep {
        SharedPurge purge;
        std::uint64_t number = 0;
        std::string cursor = "0";
    };
    struct Exchange;

    void work();
    void serve(std::vector<Task> tasks);
    bool is_connected();
    void lose(const base::Error& error);
    void answer(std::vector<Ask>& asks);
    void write(const std::vector<Keep>& keeps);
    void tell(Purge& purge);
    void sweep();
    bool read_log();
    /// The log is at `purges`, as it was asked for at `asked`.
    bool follow(std::uint64_t purges, base::TimePoint asked);
    void post_changes(const SharedMoment& from, const SharedMoment& to);
    std::optional<SavedAnswer> judge(const std::string& bytes, const base::BlockHash& name);
    bool is_purged(const SharedDocument& document) const;
    base::TimePoint next_look() const;

    const Setup setup_;
    base::BoundedQueue<Task> tasks_;
    std::atomic<bool> is_up_{false};
    std::atomic<bool> is_closing_{false};
    std::atomic<std::int64_t> busy_since_ns_{0};    // of the exchange that runs; 0: none
    std::atomic<std::int64_t> confirmed_at_ns_{0};  // when the log's end was asked for that is known here; 0: never
    std::atomic<std::uint64_t> written_{0};
    std::atomic<std::uint64_t> lost_{0};
    std::atomic<std::uint64_t> refused_{0};
    mutable std::mutex mutex_;
    SharedMoment applied_;           // guarded by mutex_: up to where all that was purged is gone here
    bool is_being_applied_ = false;  // guarded by mutex_: a change is posted

    // The thread's alone.
    std::unique_ptr<SharedServer> server_;  // null: away
    base::BlockHash life_{};
    std::uint64_t log_end_ = 0;    // number of the last one of
    std::deque<SharedPurge> log_;  // the latest purges
    std::deque<Sweep> sweeps_;     // documents that are to be taken off the server
    base::TimePoint looked_at_{};  // at the log, or for a server
    base::Duration wait_{};        // for a server that is away
    bool was_told_away_ = false;
    std::jthread thread_;
};

}  // namespace caching
