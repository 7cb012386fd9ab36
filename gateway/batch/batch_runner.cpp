#include "gateway/batch/batch_runner.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "gateway/batch/batch_form.h"

namespace gateway {
namespace {

constexpr base::Duration kLookInterval = std::chrono::milliseconds(200);  // while requests wait for room
constexpr base::Duration kStorePause = std::chrono::seconds(5);           // after it failed
constexpr std::int64_t kRetryAfterMaxS = 60;

const std::string* field_of(const HttpFields& fields, std::string_view name) {
    const auto at = std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return field.first == name; });
    return at == fields.end() ? nullptr : &at->second;
}

prometheus::Counter& outcomes(base::Metrics& metrics, const char* outcome) {
    return metrics.counter("sluice_gateway_batch_requests_total", "Requests of batches, by what became of them",
                           {{"outcome", outcome}});
}

}  // namespace

BatchRunner::BatchRunner(Setup setup)
    : setup_(std::move(setup)),
      pace_(setup_.options.requests_at_once),
      answered_total_(outcomes(setup_.metrics, "answered")),
      failed_total_(outcomes(setup_.metrics, "failed")),
      sent_again_total_(outcomes(setup_.metrics, "sent_again")),
      store_failures_total_(setup_.metrics.counter("sluice_gateway_batch_store_failures_total",
                                                   "Times that the file of batches could not be written or read", {})),
      running_gauge_(setup_.metrics.gauge("sluice_gateway_batch_requests_running", "Requests of batches in work", {})),
      unfinished_gauge_(setup_.metrics.gauge("sluice_gateway_batches_unfinished", "Batches that are not over", {})) {}

BatchRunner::~BatchRunner() = default;

void BatchRunner::add(BatchRecord batch) {
    const auto active = std::make_shared<Active>();
    active->record = std::move(batch);
    active_.push_back(active);
    unfinished_gauge_.Set(static_cast<double>(active_.size()));
    if (active->record.status == BatchStatus::validating) {
        validate(active);
    } else if (active->record.status == BatchStatus::cancelling) {
        active->ending = BatchStatus::cancelled;
        finish_if_done(active);
    }
    setup_.wake(setup_.clock.now());
}

void BatchRunner::validate(const ActivePtr& active) {
    active->is_reading = true;
    setup_.post_disk([this, active, record = active->record, requests_max = setup_.options.requests_max,
                      now = now_s()]() mutable {
        BatchInput input;
        const auto content = setup_.store.content(record.tenant, record.input_file);
        if (content && *content) {
            input = read_batch_input(**content, record.endpoint, requests_max);
        } else {
            input.problems.push_back({.code = "file_not_found", .message = "the input file is not there", .param = ""});
        }
        record.problems = input.problems;
        record.total = input.lines.size();
        record.status = input.problems.empty() ? BatchStatus::in_progress : BatchStatus::failed;
        (input.problems.empty() ? record.in_progress_at : record.ended_at) = now;
        const auto written =
            content ? setup_.store.update(record, input.lines) : base::Result<void>(base::pass_on(content));
        setup_.post([this, active, record = std::move(record), written] {
            active->is_reading = false;
            if (!written) {
                store_failed(written.error());
                return;  // looked at again by tick()
            }
            const BatchRecord before = std::exchange(active->record, record);
            if (record.is_over()) {
                active->is_finishing = true;
                std::erase(active_, active);
                unfinished_gauge_.Set(static_cast<double>(active_.size()));
            } else if (active->ending) {  // while it was read
                active->record.status = before.status;
                active->record.cancelling_at = before.cancelling_at;
                finish_if_done(active);
            }
            setup_.wake(setup_.clock.now());
        });
    });
}

void BatchRunner::read_on(const ActivePtr& active) {
    active->is_reading = true;
    const std::size_t limit = 2 * setup_.options.requests_at_once;
    setup_.post_disk([this, active, id = active->record.id, from = active->last_number, limit] {
        auto found = setup_.store.next(id, from, limit);
        if (found) {
            for (BatchRequest& one : *found) {
                one.line = body_of_line(one.line);
            }
        }
        setup_.post([this, active, limit, found = std::move(found)]() mutable {
            active->is_reading = false;
            if (!found) {
                store_failed(found.error());
                return;
            }
            active->is_read = found->size() < limit;
            if (!found->empty()) { active->last_number = found->back().number; }
            if (!active->ending) { std::move(found->begin(), found->end(), std::back_inserter(active->ready)); }
            finish_if_done(active);
            setup_.wake(setup_.clock.now());
        });
    });
}

void BatchRunner::launch(const ActivePtr& active, BatchRequest request) {
    RequestTag tag{.method = "POST",
                   .path = active->record.endpoint,
                   .id = setup_.random_id("batch_req_"),
                   .received_at = setup_.clock.now()};
    tag.is_batch = true;
    if (!active->record.key_id.empty()) {
        tag.key = setup_.key(active->record.key_id);
        if (!tag.key) {
            active->record.problems.push_back({.code = "key_gone",
                                               .message = "the API key that made the batch is revoked or has expired",
                                               .param = ""});
            end(active, BatchStatus::failed);
            return;
        }
    }
    HttpRequest http;
    http.head.method = "POST";
    http.head.path = active->record.endpoint;
    http.head.sent_path = active->record.endpoint;
    http.head.fields = {{"content-type", "application/json"}};
    if (setup_.options.slo_class.empty()) {
        http.head.fields.emplace_back("x-slo-ttft-ms", "0");
        http.head.fields.emplace_back("x-slo-tpot-ms", "0");
    } else {
        http.head.fields.emplace_back("x-slo-class", setup_.options.slo_class);
    }
    if (!setup_.tenant_header.empty()) { http.head.fields.emplace_back(setup_.tenant_header, active->record.tenant); }
    http.body = request.line;
    http.received_at = tag.received_at;
    http.client = "batch";
    ++running_;
    running_gauge_.Set(static_cast<double>(running_));
    const std::int64_t number = request.number;
    // Answers may come from inside submit(): what they change is changed by the loop. The batch owns its exchanges.
    const auto exchange = std::make_shared<BatchExchange>(
        [this, weak = std::weak_ptr(active), request = std::move(request), id = tag.id](HttpResponse response) {
            setup_.post([this, weak, request, id, response = std::move(response)]() mutable {
                if (const ActivePtr of = weak.lock()) { answered(of, std::move(request), id, std::move(response)); }
            });
        });
    active->in_work.emplace(number, exchange);
    setup_.submit(*batch_endpoint(active->record.endpoint), std::move(http), exchange, std::move(tag));
}

void BatchRunner::answered(const ActivePtr& active, BatchRequest request, const std::string& request_id,
                           HttpResponse response) {
    if (active->in_work.erase(request.number) == 0) { return; }  // it was given up meanwhile
    --running_;
    running_gauge_.Set(static_cast<double>(running_));
    const std::string* const again = field_of(response.fields, "x-should-retry");
    const bool has_no_room =
        (response.status == 429 || response.status == 503) && (again == nullptr || *again != "false");
    if (has_no_room && !active->ending) {
        sent_again_total_.Increment();
        const std::string* const after = field_of(response.fields, "Retry-After");
        std::int64_t seconds = 1;
        if (after != nullptr && !after->empty() && after->find_first_not_of("0123456789") == std::string::npos &&
            after->size() < 6) {
            seconds = std::clamp<std::int64_t>(std::stoll(*after), 1, kRetryAfterMaxS);
        }
        pace_.refused(setup_.clock.now() + std::chrono::seconds(seconds));
        active->ready.push_front(std::move(request));
    } else {
        const bool is_error = response.status != 200;
        (is_error ? failed_total_ : answered_total_).Increment();
        ++(is_error ? active->record.failed : active->record.completed);
        const std::string id = "batch_req_" + active->record.id.substr(active->record.id.find('_') + 1) + "-" +
                               std::to_string(request.number);
        save(active, {{.number = request.number,
                       .is_error = is_error,
                       .line = outcome_line(id, request.custom_id, response.status, request_id, response.body)}});
    }
    setup_.wake(setup_.clock.now());
}

void BatchRunner::save(const ActivePtr& active, std::vector<BatchOutcome> outcomes) {
    active->saving += outcomes.size();
    setup_.post_disk([this, active, id = active->record.id, outcomes = std::move(outcomes)]() mutable {
        const auto saved = setup_.store.add_outcomes(id, outcomes);
        setup_.post([this, active, saved, outcomes = std::move(outcomes)]() mutable {
            active->saving -= outcomes.size();
            if (!saved) {
                store_failed(saved.error());
                std::move(outcomes.begin(), outcomes.end(), std::back_inserter(active->unsaved));
                return;
            }
            finish_if_done(active);
        });
    });
}

void BatchRunner::end(const ActivePtr& active, BatchStatus status) {
    if (active->ending || active->is_finishing) { return; }
    active->ending = status;
    active->ready.clear();
    const auto in_work = std::exchange(active->in_work, {});
    running_ -= in_work.size();
    running_gauge_.Set(static_cast<double>(running_));
    for (const auto& [number, exchange] : in_work) {
        exchange->leave();
    }
    finish_if_done(active);
}

void BatchRunner::finish_if_done(const ActivePtr& active) {
    const bool has_all = active->is_read && active->ready.empty();
    if (active->is_finishing || active->is_reading || !(active->ending || has_all) || !active->in_work.empty() ||
        active->saving > 0 || !active->unsaved.empty() || setup_.clock.now() < store_pause_until_) {
        return;
    }
    active->is_finishing = true;
    BatchRecord record = active->record;
    record.status = active->ending.value_or(BatchStatus::completed);
    record.ended_at = now_s();
    if (!active->ending) { record.finalizing_at = record.ended_at; }
    record.output_file = setup_.random_id("file-");
    record.error_file = setup_.random_id("file-");
    setup_.post_disk([this, active, record = std::move(record)]() mutable {
        auto finished = setup_.store.finish(std::move(record));
        setup_.post([this, active, finished = std::move(finished)] {
            if (!finished) {
                active->is_finishing = false;
                store_failed(finished.error());
                return;
            }
            spdlog::info("batch {} is {}: {} requests, {} answered, {} failed", finished->id, name_of(finished->status),
                         finished->total, finished->completed, finished->failed);
            std::erase(active_, active);
            unfinished_gauge_.Set(static_cast<double>(active_.size()));
        });
    });
}

void BatchRunner::store_failed(const base::Error& error) {
    store_failures_total_.Increment();
    const base::TimePoint now = setup_.clock.now();
    if (now >= store_pause_until_) { spdlog::error("batches wait: {}", error.message); }
    store_pause_until_ = now + kStorePause;
    setup_.wake(store_pause_until_);
}

bool BatchRunner::cancel(const std::string& id) {
    const auto at = std::find_if(active_.begin(), active_.end(), [&](const auto& one) { return one->record.id == id; });
    if (at == active_.end() || (*at)->is_finishing) { return false; }
    const ActivePtr active = *at;
    if (active->ending) { return true; }
    active->record.status = BatchStatus::cancelling;
    active->record.cancelling_at = now_s();
    if (!active->is_reading) {  // else the reading's end writes it
        setup_.post_disk([this, record = active->record] {
            if (const auto written = setup_.store.update(record); !written) {
                setup_.post([this, error = written.error()] { store_failed(error); });
            }
        });
    }
    end(active, BatchStatus::cancelled);
    return true;
}

std::optional<BatchRecord> BatchRunner::find(const std::string& id) const {
    const auto at = std::find_if(active_.begin(), active_.end(), [&](const auto& one) { return one->record.id == id; });
    if (at == active_.end()) { return std::nullopt; }
    return (*at)->record;
}

void BatchRunner::ended(const RequestTag& tag, const RequestEnd& end) {
    if (tag.is_batch || active_.empty()) { return; }
    const bool has_no_room = end.status == 429 || end.status == 503;
    if (!end.kept_targets && !has_no_room) { return; }
    pace_.ended(!has_no_room && end.kept_targets.value_or(false), setup_.clock.now());
}

BatchRunner::ActivePtr BatchRunner::next_with_work() {
    for (std::size_t tried = 0; tried < active_.size(); ++tried) {
        ActivePtr one = active_.front();
        active_.pop_front();
        active_.push_back(one);
        if (!one->ready.empty() && !one->ending) { return one; }
    }
    return nullptr;
}

std::optional<base::TimePoint> BatchRunner::tick(base::TimePoint now) {
    if (active_.empty() || is_stopped_) { return std::nullopt; }
    if (now < store_pause_until_) { return store_pause_until_; }
    const std::vector<ActivePtr> all(active_.begin(), active_.end());
    bool saves = false;
    for (const ActivePtr& active : all) {
        if (!active->unsaved.empty()) {
            saves = true;
            const auto unsaved = std::exchange(active->unsaved, {});
            save(active, {unsaved.begin(), unsaved.end()});
        }
        if (active->record.expires_at <= now_s()) { end(active, BatchStatus::expired); }
        if (active->is_reading || active->ending) {
            finish_if_done(active);
        } else if (active->record.status == BatchStatus::validating) {
            validate(active);
        } else if (!active->is_read && active->ready.size() < setup_.options.requests_at_once) {
            read_on(active);
        } else {
            finish_if_done(active);
        }
    }
    if (!saves) {
        while (true) {
            const std::size_t in_flight = setup_.in_flight();
            const std::size_t others = in_flight - std::min(in_flight, running_);
            if (running_ >= pace_.allowed(others, running_, now)) { break; }
            const ActivePtr active = next_with_work();
            if (active == nullptr) { break; }
            BatchRequest request = std::move(active->ready.front());
            active->ready.pop_front();
            launch(active, std::move(request));
        }
    }
    const bool waits = std::any_of(active_.begin(), active_.end(), [](const auto& one) { return !one->ready.empty(); });
    return now + (waits ? kLookInterval : base::Duration(std::chrono::seconds(1)));
}

}  // namespace gateway
