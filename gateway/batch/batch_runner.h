#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "gateway/batch/batch_exchange.h"
#include "gateway/batch/batch_options.h"
#include "gateway/batch/batch_pace.h"
#include "gateway/batch/batch_store.h"
#include "gateway/keys/api_key.h"
#include "gateway/openai/endpoint.h"
#include "gateway/request/ports.h"
#include "gateway/request_log.h"

namespace gateway {

/// Sends the requests of batches in, as a client would, when there is room beside everybody else (BatchPace), each
/// once its outcome is in the store never again. Batches take turns. I/O thread only; the store is used by what
/// `post_disk` runs, in order, on one other thread.
class BatchRunner {
public:
    struct Setup {
        const BatchOptions& options;  // borrowed, like all references here
        BatchStore& store;
        Post post;       // back to the I/O thread
        Post post_disk;  // to the store's thread
        std::function<void(Endpoint, HttpRequest, const std::shared_ptr<Exchange>&, RequestTag)> submit;
        std::function<std::shared_ptr<const ApiKey>(const std::string& id)>
            key;                                 // null pointer: there is none any more
        std::function<std::size_t()> in_flight;  // requests in work, with those of batches
        std::function<std::string(std::string_view prefix)> random_id;
        std::string tenant_header;  // by which a request names its tenant where there are no keys; may be empty
        const base::Clock& clock;
        base::Metrics& metrics;
        Wake wake;
    };
    explicit BatchRunner(Setup setup);
    ~BatchRunner();

    /// One that is not over: its input is read (validating), or its requests go on.
    void add(BatchRecord batch);
    /// No more of its requests are sent, those in work are given up, and it is cancelled. False where it is over.
    bool cancel(const std::string& id);
    /// As it is now; nothing where it is over.
    std::optional<BatchRecord> find(const std::string& id) const;

    /// Somebody's request has ended; those of batches are passed over.
    void ended(const RequestTag& tag, const RequestEnd& end);
    std::optional<base::TimePoint> tick(base::TimePoint now);
    /// The gateway drains: nothing is sent any more.
    void stop() { is_stopped_ = true; }

private:
    struct Active {
        BatchRecord record;
        std::deque<BatchRequest> ready;
        std::int64_t last_number = 0;  // that was read
        bool is_reading = false;
        bool is_read = false;  // to its end
        std::map<std::int64_t, std::shared_ptr<BatchExchange>> in_work;
        std::deque<BatchOutcome> unsaved;  // that the store did not take
        std::size_t saving = 0;
        bool is_finishing = false;
        std::optional<BatchStatus> ending;  // why it ends before all is answered
    };
    using ActivePtr = std::shared_ptr<Active>;

    void validate(const ActivePtr& active);
    void read_on(const ActivePtr& active);
    void launch(const ActivePtr& active, BatchRequest request);
    void answered(const ActivePtr& active, BatchRequest request, const std::string& request_id, HttpResponse response);
    void save(const ActivePtr& active, std::vector<BatchOutcome> outcomes);
    void end(const ActivePtr& active, BatchStatus status);
    void finish_if_done(const ActivePtr& active);
    void store_failed(const base::Error& error);
    /// The next batch in turn that has a request to send, or null.
    ActivePtr next_with_work();
    std::int64_t now_s() const { return setup_.clock.unix_us() / 1'000'000; }

    Setup setup_;
    BatchPace pace_;
    std::deque<ActivePtr> active_;  // whose turn is next stands first
    std::size_t running_ = 0;
    bool is_stopped_ = false;
    base::TimePoint store_pause_until_{};
    prometheus::Counter& answered_total_;
    prometheus::Counter& failed_total_;
    prometheus::Counter& sent_again_total_;
    prometheus::Counter& store_failures_total_;
    prometheus::Gauge& running_gauge_;
    prometheus::Gauge& unfinished_gauge_;
};

}  // namespace gateway
