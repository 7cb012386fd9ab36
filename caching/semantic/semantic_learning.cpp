// What outlives the process: questions, and what was learnt of them.
#include <utility>

#include "caching/semantic/bytes.h"
#include "caching/semantic/semantic_cache.h"

namespace caching {
namespace {

constexpr char kForm[] = "sluice learning 3";
constexpr std::size_t kToldEvery = 512;  // observations; a change of a budget's state is told at once

}  // namespace

std::vector<SemanticCache::Learnt> SemanticCache::fresh_learnt() const {
    const auto reserve = options_.relieves ? options_.relief_reserve : ErrorBudget::Reserve();
    std::vector<Learnt> learnt;
    for (const CategoryPolicy& policy : options_.categories) {
        learnt.push_back({.calibration = Calibration({}, Calibration::start_weights()),
                          .budget = ErrorBudget(policy.error_target, reserve)});
    }
    for (std::size_t at = 0; at < learnt_.size(); ++at) {
        learnt[at].bytes = learnt_[at].bytes;
    }
    return learnt;
}

SavedQuestion SemanticCache::saved_of(const Entry& entry, std::vector<float> vector) const {
    const auto since = [this](base::TimePoint then) {
        return std::chrono::duration_cast<std::chrono::microseconds>(clock_.now() - then).count();
    };
    return {.exact = entry.exact,
            .partition = entry.partition,
            .tenant = tenants_[entry.tenant].name,
            .category = options_.categories[entry.category].name,
            .embedder = embedder_.name(),
            .revision = entry.revision,
            .tags = entry.tags,
            .meaning = entry.meaning,
            .created_unix_us = clock_.unix_us() - since(entry.created),
            .ttl_us = std::chrono::duration_cast<std::chrono::microseconds>(entry.ttl).count(),
            .saved_s = entry.saved_s,
            .profile = entry.profile,
            .vector = std::move(vector),
            .document = entry.document};
}

bool SemanticCache::restore(SavedQuestion saved) {
    std::size_t category = 0;
    while (category < options_.categories.size() && options_.categories[category].name != saved.category) {
        ++category;
    }
    const std::int64_t age_us = std::max<std::int64_t>(clock_.unix_us() - saved.created_unix_us, 0);
    const bool is_whole =
        saved.vector.empty() || embedder_.dimensions() == 0 || saved.vector.size() == embedder_.dimensions();
    if (category == options_.categories.size() || saved.embedder != embedder_.name() || !is_whole ||
        age_us >= saved.ttl_us || exact_.contains(saved.exact)) {
        return false;
    }
    const auto answer = from_document(saved.document);
    if (!answer) { return false; }
    Entry entry;
    entry.partition = saved.partition;
    entry.exact = saved.exact;
    entry.has_vector = !saved.vector.empty() && options_.semantic && options_.categories[category].semantic;
    entry.category = static_cast<std::uint32_t>(category);
    entry.meaning = saved.meaning;
    entry.own = meaning_of(*answer);
    entry.document = std::move(saved.document);
    entry.revision = std::move(saved.revision);
    entry.tags = std::move(saved.tags);
    entry.profile = std::move(saved.profile);
    entry.created = clock_.now() - std::chrono::microseconds(age_us);
    entry.ttl = std::chrono::microseconds(saved.ttl_us);
    entry.valued = clock_.now();
    entry.saved_s = saved.saved_s;
    entry.bytes = bytes_of(entry, saved.vector.size());
    entry.tenant = tenant_index(saved.tenant);
    const auto most = static_cast<double>(options_.bytes_max);
    const auto fits = [&](std::size_t bytes, double share) {
        return static_cast<double>(bytes + entry.bytes) <= most * share;
    };
    if (entries_.size() >= options_.entries_max || !fits(bytes_, 1.0) ||
        !fits(tenants_[entry.tenant].bytes, options_.tenant_share) ||
        !fits(learnt_[category].bytes, options_.categories[category].quota_share)) {
        return false;
    }
    add(EntryId{next_id_++}, std::move(entry), saved.vector);
    return true;
}

std::string SemanticCache::learning() const {
    ByteWriter bytes;
    bytes.text(kForm);
    bytes.text(embedder_.name());
    everything_.save(bytes);
    bytes.number(static_cast<std::uint32_t>(learnt_.size()));
    for (std::size_t at = 0; at < learnt_.size(); ++at) {
        const Learnt& learnt = learnt_[at];
        bytes.text(options_.categories[at].name);
        learnt.calibration.save(bytes);
        learnt.budget.save(bytes);
        bytes.number(learnt.asked_again);
        bytes.number(learnt.changed);
        bytes.number(learnt.watched_s);
    }
    return bytes.take();
}

bool SemanticCache::restore_learning(std::string_view given) {
    ByteReader bytes(given);
    if (bytes.text() != kForm || bytes.text() != embedder_.name()) { return false; }
    Calibration everything({}, Calibration::start_weights());
    if (!everything.restore(bytes)) { return false; }
    std::vector<Learnt> all = fresh_learnt();
    const auto count = bytes.number<std::uint32_t>();
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::string name = bytes.text();
        Learnt passed_over{.calibration = Calibration({}, Calibration::start_weights()), .budget = ErrorBudget(0.0)};
        Learnt* learnt = &passed_over;
        for (std::size_t at = 0; at < all.size(); ++at) {
            if (options_.categories[at].name == name) { learnt = &all[at]; }
        }
        if (!learnt->calibration.restore(bytes) || !learnt->budget.restore(bytes)) { return false; }
        learnt->asked_again = bytes.number<double>();
        learnt->changed = bytes.number<double>();
        learnt->watched_s = bytes.number<double>();
        if (!(learnt->changed >= 0 && learnt->asked_again >= learnt->changed && learnt->watched_s >= 0)) {
            return false;
        }
        learnt->calibration.set_above(everything.weights());
    }
    if (!bytes.at_end()) { return false; }
    everything_ = std::move(everything);
    learnt_ = std::move(all);
    return true;
}

void SemanticCache::told_observation(ErrorBudget::State before, const ErrorBudget& budget) {
    if (journal_ == nullptr) { return; }
    if (++untold_observations_ < kToldEvery && budget.state() == before) { return; }
    untold_observations_ = 0;
    journal_->learnt(learning());
}

}  // namespace caching
