#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gateway/answer.h"
#include "gateway/cache/response_cache.h"
#include "gateway/client_answer.h"
#include "gateway/keys/key_keeper.h"
#include "gateway/openai/text_forms.h"
#include "gateway/options.h"
#include "gateway/request/request_table.h"
#include "gateway/stages.h"
#include "gateway/text_queue.h"

namespace gateway {

/// Takes in requests that make sequences: decides at the door, sends them through the stages on a text thread, opens an
/// answer at the source, and keeps account of them until they are answered. I/O thread only, but for the stages.
class Intake {
public:
    struct Setup {
        const GatewayOptions& options;  // borrowed, like all references here
        const Models& models;
        base::HashKey hash_key;
        const RequestTable& table;  // what is known of the cluster
        SequenceSource& source;
        std::vector<const FormRewriter*> rewriters;
        GatewayMetrics& metrics;
        RequestLog& log;
        TimelineBook* timelines = nullptr;  // null: none are kept
        const base::Clock& clock;
        Post post;           // back to the I/O thread
        PostText post_text;  // to a text thread
        Wake wake = {};      // asks for tick(); empty: its owner looks by itself
        std::string version;
        KeyKeeper* keys = nullptr;       // null: everybody may ask
        ResponseCache* cache = nullptr;  // in front of the model; null: none. `source` is then its source
    };
    explicit Intake(Setup setup);
    /// Every request must have been answered.
    ~Intake();

    /// One request, to be answered now or later.
    void take(Endpoint endpoint, HttpRequest request, const std::shared_ptr<Exchange>& exchange, RequestTag tag);
    /// One request about a model's text, likewise; it needs no worker.
    void take_text(const TextRouteForm& route, HttpRequest request, const std::shared_ptr<Exchange>& exchange,
                   RequestTag tag);
    /// What is due, and when the next is.
    std::optional<base::TimePoint> tick(base::TimePoint now);
    /// New requests and those that wait for a text thread get 503 from now on. `progress` is called whenever
    /// in_flight() has fallen.
    void drain(std::function<void()> progress) {
        draining_ = true;
        drain_progress_ = std::move(progress);
    }
    bool draining() const { return draining_; }
    /// Every request still in work gets its error.
    void give_up_all();
    std::size_t in_flight() const { return in_flight_; }
    /// `prefix` and 24 random characters.
    std::string random_id(std::string_view prefix);

private:
    /// What is known of a request between the door and its answer.
    struct Waiting {
        Endpoint endpoint;
        std::shared_ptr<Exchange> exchange;
        RequestTag tag;
        std::string tenant;
        SloWish slo;                               // of the header
        std::shared_ptr<ByteAccount::Hold> bytes;  // counted until its sequences start; may be null
    };
    /// The error of a body that is not taken now.
    ApiResult<void> admit_body(const HttpRequest& request) const;
    /// PrepareForm of the cache.
    void prepare_form(const std::string& tenant, std::function<RequestForm()> make,
                      std::function<void(ApiResult<PreparedRequest>)> done);
    /// The error of who is not let in; else its tenant. Counts it for its key (tag.quota).
    ApiResult<std::string> admit(const HttpRequest& request, RequestTag& tag) const;
    /// The same without the tenant, of what needs no worker.
    ApiResult<void> admit_text(const HttpRequest& request, RequestTag& tag) const;
    ApiResult<void> count(RequestTag& tag) const;
    /// What the key allows of what was asked, and whether it may use that many tokens now.
    ApiResult<void> admit_prepared(const PreparedRequest& prepared, const RequestSlo& slo,
                                   const Waiting& waiting) const;
    Stages::Output run_stages(const Waiting& waiting, const Stages::Input& input) const;
    void prepared(Stages::Output output, Waiting waiting);
    /// Sequences that an answer opens first.
    std::size_t sequences_of(const PreparedRequest& prepared) const;
    std::shared_ptr<ClientAnswer> make_answer(PreparedRequest prepared, RequestSlo slo, const Waiting& waiting);
    std::shared_ptr<ClientAnswer> make_text_answer(PreparedRequest prepared, RequestSlo slo, const Waiting& waiting);
    void text_answered(const TextAnswer& answer, const TextRouteForm& route, Exchange& exchange, const RequestTag& tag);
    /// `end`: all but the status is set.
    void refuse(const ApiError& error, Exchange& exchange, const RequestTag& tag, RequestEnd end);
    void done(ClientAnswer& answer);
    void leave();
    std::string fingerprint(std::size_t model) const;

    Setup setup_;
    Stages stages_;
    TenantTokens tenant_tokens_;
    std::mt19937_64 random_;
    std::unordered_map<ClientAnswer*, std::shared_ptr<ClientAnswer>> answers_;
    std::size_t in_flight_ = 0;
    std::atomic<bool> draining_{false};  // set by the I/O thread, read by the text threads too
    std::function<void()> drain_progress_;
};

}  // namespace gateway
