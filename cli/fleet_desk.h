#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "cli/fleet_view.h"
#include "cli/top_view.h"
#include "gateway/http/exchange.h"
#include "gateway/keys/key_keeper.h"

namespace cli {

/// The fleet page and what it asks for: `/fleet` and its files, which tell nothing; `/fleet/state` and `/fleet/drain`,
/// which need an API key of scope admin. It looks at the cluster when somebody asks and the last look is older than
/// the interval: once for all who watch, and never for nobody. Each drain has a line in the log.
class FleetDesk {
public:
    using Post = std::function<void(std::function<void()>)>;
    struct Setup {
        // Called on threads of the desk, each for some seconds at most; `describe` and `drain` never at once.
        std::function<TopMoment()> look;
        std::function<base::Result<proto::DescribeReply>()> describe;
        std::function<base::Result<proto::WorkerState>(std::uint64_t worker, std::uint64_t incarnation)> drain;
        std::string keys_file;  // of API keys (gateway.keys_file); empty: `keys`
        std::vector<gateway::ApiKey> keys = {};
        const base::Clock& clock;  // borrowed
        base::Duration look_interval = std::chrono::seconds(2);
    };
    /// Error: as gateway::KeyKeeper::open.
    static base::Result<std::unique_ptr<FleetDesk>> open(Setup setup);
    /// Ends when what its thread does has ended. The thread of `post` runs no more then.
    ~FleetDesk();
    FleetDesk(const FleetDesk&) = delete;
    FleetDesk& operator=(const FleetDesk&) = delete;

    /// Before the first request. `post`: to the thread that calls handle().
    void start(Post post);
    static bool is_route(std::string_view path);
    /// Answers, at once or later. One thread.
    void handle(const gateway::HttpRequest& request, const std::shared_ptr<gateway::Exchange>& exchange);

private:
    struct Told {
        FleetMoment moment;
        std::vector<FleetChange> changes;  // newest first
    };
    struct Waiting {
        FleetQuery query;
        std::shared_ptr<gateway::Exchange> exchange;
    };
    explicit FleetDesk(Setup setup);

    void tell_state(const gateway::RequestHead& head, const std::shared_ptr<gateway::Exchange>& exchange);
    void take_drain(const gateway::HttpRequest& request, const gateway::ApiKey& key,
                    const std::shared_ptr<gateway::Exchange>& exchange);
    void drained(std::uint64_t number, const base::Result<proto::WorkerState>& worker);
    void answer(const Waiting& waiting) const;
    void seen(std::shared_ptr<const Told> told);
    void look();  // on the desk's thread

    Setup setup_;
    base::Metrics own_metrics_;  // of the keys: those of the process are of the gateway's door
    std::unique_ptr<gateway::KeyKeeper> keys_;
    Post post_;

    // Of the thread of handle().
    std::shared_ptr<const Told> told_;
    base::TimePoint told_at_{};
    bool is_outdated_ = false;  // by a drain
    bool is_looking_ = false;
    std::map<std::uint64_t, std::shared_ptr<gateway::Exchange>> drains_;  // in work, by their number
    std::uint64_t next_drain_ = 0;
    std::vector<Waiting> waiting_;

    // Of the desk's thread.
    std::optional<TopMoment> before_;
    std::shared_ptr<const Told> last_;

    base::BoundedQueue<std::function<void()>> tasks_;
    std::jthread thread_;  // last: it ends first
};

/// An API key of scope admin that is in no file, made for this run.
struct MadeKey {
    std::string secret;  // shown once
    gateway::ApiKey key;
};
MadeKey make_admin_key();

}  // namespace cli
