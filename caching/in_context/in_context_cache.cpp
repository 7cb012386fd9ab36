#include "caching/in_context/in_context_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "caching/in_context/example_pack.h"
#include "caching/semantic/question.h"
#include "caching/semantic/words.h"

namespace caching {
namespace {

constexpr double kExampleCost = 0.005;     // of quality, that an example's prompt tokens are worth
constexpr std::size_t kDemandMost = 64;    // examples of a cluster whose demand is counted
constexpr double kDemandLeast = 2;         // of an example in a pack
constexpr std::size_t kCornersSlack = 16;  // clusters that are gone and still known, at the least
constexpr std::size_t kReplayRanked = 64;  // examples that are looked at for the next replay

}  // namespace

InContextCache::InContextCache(InContextOptions options, const base::Clock& clock, std::size_t dimensions,
                               std::string models)
    : options_(std::move(options)),
      clock_(clock),
      dimensions_(dimensions),
      models_(std::move(models)),
      random_(options_.seed),
      book_(options_, clock, dimensions),
      threshold_(options_.helpfulness_min, options_.threshold_share),
      router_(options_),
      meter_(options_.load_half_life, options_.load_threshold),
      memory_(dimensions) {}

base::BlockHash InContextCache::partition_of(std::string_view tenant, std::string_view scope) const {
    std::string name = "sluice examples 1";
    for (const std::string_view field : {tenant, scope}) {
        const auto size = static_cast<std::uint64_t>(field.size());
        for (int shift = 0; shift < 64; shift += 8) {
            name += static_cast<char>((size >> shift) & 0xff);
        }
        name += field;
    }
    return base::keyed_hash(options_.key, std::as_bytes(std::span(name)));
}

void InContextCache::forget_gone_corners(const base::BlockHash& partition) {
    if (corners_.size() > 2 * book_.partitions() + kCornersSlack) {
        std::erase_if(corners_, [&](const auto& one) { return book_.index(one.first) == nullptr; });
    }
    const ExampleIndex* index = book_.index(partition);
    const auto of = corners_.find(partition);
    if (index == nullptr || of == corners_.end() || of->second.size() <= 2 * index->clusters() + kCornersSlack) {
        return;
    }
    std::erase_if(of->second, [&](const auto& one) { return !index->has_cluster(one.first); });
}

std::vector<InContextCache::Scored> InContextCache::select(const InContextQuestion& question,
                                                           const std::vector<std::string>& words, ExampleIndex& index,
                                                           double at_least) const {
    std::vector<Scored> good;
    for (const NearExample& near : index.nearest(question.vector, options_.candidates, options_.probes)) {
        if (near.similarity < options_.similarity_min) { break; }
        const Example* example = book_.find(near.example);
        // A partition is one tenant's: that it is this one's is what everything else rests on.
        CHECK(example != nullptr && example->tenant == question.tenant);
        Scored scored{.id = near.example, .evidence = book_.evidence(*example, near.similarity, words)};
        scored.helpfulness = proxy_.predict(scored.evidence);
        if (scored.helpfulness >= at_least) { good.push_back(scored); }
    }
    std::sort(good.begin(), good.end(), [](const Scored& a, const Scored& b) {
        return a.helpfulness != b.helpfulness ? a.helpfulness > b.helpfulness : a.id < b.id;
    });
    std::vector<Scored> chosen;
    std::size_t bytes = 0;
    for (const Scored& scored : good) {
        if (chosen.size() >= options_.examples_each) { break; }
        const bool has_twin = std::any_of(chosen.begin(), chosen.end(), [&](const Scored& other) {
            return index.similarity(scored.id, other.id) >= static_cast<float>(options_.similarity_twin);
        });
        if (has_twin) { continue; }
        const Example& example = *book_.find(scored.id);
        const std::size_t more = rendered_bytes({example.question, example.answer});
        if (bytes + more > options_.prompt_bytes_max) { continue; }
        bytes += more;
        chosen.push_back(scored);
    }
    return chosen;
}

std::vector<InContextCache::Scored> InContextCache::pack_for(const InContextQuestion& question,
                                                             const std::vector<std::string>& words,
                                                             const ExampleIndex& index, const Corner& corner,
                                                             double at_least) const {
    std::vector<Scored> members;
    for (const ExampleId id : corner.pack) {
        const Example* example = book_.find(id);
        if (example == nullptr) { return {}; }
        const double similarity = static_cast<double>(index.similarity(question.vector, id));
        Scored scored{.id = id, .evidence = book_.evidence(*example, similarity, words)};
        scored.helpfulness = proxy_.predict(scored.evidence);
        if (scored.helpfulness < at_least) { return {}; }
        members.push_back(scored);
    }
    return members;
}

void InContextCache::add_others(std::vector<Scored>& pack, const std::vector<Scored>& chosen,
                                const ExampleIndex& index) const {
    std::size_t bytes = 0;
    const auto bytes_of = [&](ExampleId id) {
        const Example& example = *book_.find(id);
        return rendered_bytes({example.question, example.answer});
    };
    for (const Scored& member : pack) {
        bytes += bytes_of(member.id);
    }
    for (const Scored& scored : chosen) {
        if (pack.size() >= options_.examples_each) { break; }
        const bool is_there = std::any_of(pack.begin(), pack.end(), [&](const Scored& member) {
            return member.id == scored.id ||
                   index.similarity(member.id, scored.id) >= static_cast<float>(options_.similarity_twin);
        });
        if (is_there || bytes + bytes_of(scored.id) > options_.prompt_bytes_max) { continue; }
        bytes += bytes_of(scored.id);
        pack.push_back(scored);
    }
}

void InContextCache::renew_pack(Corner& corner, const ExampleIndex& index) {
    const bool is_whole = !corner.pack.empty() && std::all_of(corner.pack.begin(), corner.pack.end(),
                                                              [&](ExampleId id) { return book_.find(id) != nullptr; });
    const bool is_refused = 4 * corner.pack_refusals > options_.pack_uses;
    if (is_whole && !is_refused && corner.pack_uses < options_.pack_uses) { return; }
    std::erase_if(corner.demand, [&](const auto& one) { return book_.find(one.first) == nullptr; });
    std::vector<std::pair<double, ExampleId>> order;
    for (const auto& [id, demand] : corner.demand) {
        if (demand >= kDemandLeast) { order.emplace_back(-demand, id); }
    }
    std::sort(order.begin(), order.end());
    const std::size_t wanted = std::min(options_.pack_examples, options_.examples_each);
    std::vector<ExampleId> pack;
    std::size_t bytes = 0;
    for (const auto& [demand, id] : order) {
        if (pack.size() >= wanted) { break; }
        const Example& example = *book_.find(id);
        const std::size_t more = rendered_bytes({example.question, example.answer});
        const bool has_twin = std::any_of(pack.begin(), pack.end(), [&, one = id](ExampleId other) {
            return index.similarity(one, other) >= static_cast<float>(options_.similarity_twin);
        });
        if (has_twin || bytes + more > options_.prompt_bytes_max) { continue; }
        bytes += more;
        pack.push_back(id);
    }
    double seen = 0;
    for (const auto& [id, demand] : corner.demand) {
        seen += demand;
    }
    // A small pack is better than none only once it is clear that there will be no larger one.
    if (corner.pack.empty() && pack.size() < wanted && seen < static_cast<double>(options_.pack_uses)) { return; }
    std::sort(pack.begin(), pack.end());
    if (pack != corner.pack) {
        corner.pack = pack;
        corner.pack_id = pack.empty() ? 0 : next_pack_++;
    }
    corner.pack_uses = 0;
    corner.pack_refusals = 0;
    if (pack.empty()) { return; }
    for (auto& [id, demand] : corner.demand) {
        demand /= 2;
    }
    std::erase_if(corner.demand, [](const auto& one) { return one.second < 0.25; });
}

ChosenExamples InContextCache::choose(const InContextQuestion& question, ExampleIndex& index, Corner& corner) {
    ChosenExamples result;
    const HelpfulnessThreshold::Choice threshold = threshold_.choose(random_);
    result.threshold = threshold.index;
    const std::vector<std::string> words = words_of(question.text);
    std::vector<Scored> chosen = select(question, words, index, threshold.at_least);
    if (chosen.empty()) { return result; }
    for (const Scored& scored : chosen) {
        const auto known = corner.demand.find(scored.id);
        if (known != corner.demand.end()) {
            known->second += scored.helpfulness;
        } else if (corner.demand.size() < kDemandMost) {
            corner.demand.emplace(scored.id, scored.helpfulness);
        }
    }
    renew_pack(corner, index);
    const auto older = [](const Scored& a, const Scored& b) { return a.id < b.id; };
    if (std::vector<Scored> members = pack_for(question, words, index, corner, threshold.at_least); !members.empty()) {
        result.pack = corner.pack_id;
        result.pack_examples = members.size();
        ++corner.pack_uses;
        ++with_pack_;
        add_others(members, chosen, index);
        chosen = std::move(members);
    } else if (corner.pack_id != 0) {
        ++corner.pack_refusals;
    }
    std::sort(chosen.begin() + static_cast<std::ptrdiff_t>(result.pack_examples), chosen.end(), older);
    for (const Scored& scored : chosen) {
        result.examples.push_back(scored.id);
        result.evidence.push_back(scored.evidence);
        result.similarity_best = std::max(result.similarity_best, scored.evidence.similarity);
        result.overlap_best = std::max(result.overlap_best, scored.evidence.word_overlap);
        result.helpfulness_best = std::max(result.helpfulness_best, scored.helpfulness);
        result.helpfulness_mean += scored.helpfulness / static_cast<double>(chosen.size());
    }
    return result;
}

std::string InContextCache::render(const std::vector<ExampleId>& examples, const std::string& tenant) const {
    std::vector<ShownExample> shown;
    for (const ExampleId id : examples) {
        const Example* example = book_.find(id);
        CHECK(example != nullptr && example->tenant == tenant);
        shown.push_back({example->question, example->answer});
    }
    return render_examples(shown);
}

InContextDecision InContextCache::decide(const InContextQuestion& question, Router::Allowed allowed) {
    InContextDecision decision;
    decision.partition = partition_of(question.tenant, question.scope);
    decision.vector = question.vector;
    Corner nowhere;
    Corner* corner = &nowhere;
    if (ExampleIndex* index = book_.index(decision.partition)) {
        decision.cluster = index->cluster_near(question.vector);
        if (decision.cluster) {
            forget_gone_corners(decision.partition);
            corner = &corners_[decision.partition][*decision.cluster];
            if (options_.route != RouteMode::large) { decision.chosen = choose(question, *index, *corner); }
        }
    }
    const ChosenExamples& chosen = decision.chosen;
    decision.features = {1.0,
                         chosen.similarity_best,
                         chosen.helpfulness_mean,
                         chosen.helpfulness_best,
                         static_cast<double>(chosen.examples.size()) /
                             static_cast<double>(std::max<std::size_t>(options_.examples_each, 1)),
                         std::min(std::log1p(static_cast<double>(question.text.size())) / 10, 1.5),
                         chosen.overlap_best,
                         memory_.near(question.vector, Arm::small, kUnknownSmall),
                         memory_.near(question.vector, Arm::large, kUnknownLarge)};
    decision.route =
        router_.choose(decision.features, {.excess = meter_.excess(), .is_idle = meter_.is_idle()}, allowed);
    if (decision.route.arm == Arm::small || decision.route.is_compared) {
        decision.chosen.rendered = render(chosen.examples, question.tenant);
    }
    if (decision.route.arm == Arm::small) {
        for (const ExampleId id : chosen.examples) {
            book_.used(id, decision.route.mean_small);
        }
    }
    return decision;
}

InContextCache::Kept InContextCache::keep(const InContextQuestion& question, std::string_view answer,
                                          std::string_view revision, std::vector<std::string> tags) {
    if (is_personal(question.text) || is_personal(answer)) { return Kept::personal; }
    switch (book_.add({.tenant = question.tenant,
                       .partition = partition_of(question.tenant, question.scope),
                       .question = question.text,
                       .answer = answer,
                       .revision = revision,
                       .tags = std::move(tags),
                       .vector = question.vector})) {
        case ExampleBook::Added::kept:
            return Kept::kept;
        case ExampleBook::Added::replaced:
            return Kept::replaced;
        case ExampleBook::Added::worse:
            return Kept::worse;
        case ExampleBook::Added::too_large:
            return Kept::too_large;
        case ExampleBook::Added::empty:
            return Kept::empty;
        case ExampleBook::Added::no_room:
            break;
    }
    return Kept::no_room;
}

bool InContextCache::restore(const SavedExample& saved, std::span<const float> vector) {
    return !is_personal(saved.question) && !is_personal(saved.answer) && book_.restore(saved, vector);
}

void InContextCache::hear_of_changes() {
    for (auto [arm, heard] : {std::pair(Arm::small, &changes_small_), std::pair(Arm::large, &changes_large_)}) {
        if (const std::uint64_t changes = router_.belief(arm).changes(); changes != *heard) {
            *heard = changes;
            memory_.forget(arm);
        }
    }
}

void InContextCache::judge(const InContextDecision& decision, const InContextFeedback& feedback) {
    ++untold_;
    const ChosenExamples& chosen = decision.chosen;
    if (feedback.small && std::isfinite(*feedback.small)) {
        const double quality = std::clamp(*feedback.small, 0.0, 1.0);
        for (std::size_t at = 0; at < chosen.examples.size(); ++at) {
            proxy_.learn(chosen.evidence[at], quality);
            book_.judged(chosen.examples[at], quality, decision.route.mean_small, options_.small_cost);
        }
        threshold_.learn(chosen.threshold, quality - decision.features[kNearSmall] -
                                               kExampleCost * static_cast<double>(chosen.examples.size()));
        memory_.add(decision.vector, Arm::small, quality);
    }
    if (feedback.large && std::isfinite(*feedback.large)) {
        memory_.add(decision.vector, Arm::large, std::clamp(*feedback.large, 0.0, 1.0));
    }
    if (feedback.small && feedback.large) {
        router_.learn_both(decision.features, decision.route, *feedback.small, *feedback.large);
    } else if (feedback.small) {
        router_.learn(decision.features, Arm::small, *feedback.small);
    } else if (feedback.large) {
        router_.learn(decision.features, Arm::large, *feedback.large);
    }
    hear_of_changes();
}

std::optional<InContextCache::Replay> InContextCache::next_replay(const std::function<bool(const Example&)>& may_be) {
    for (const ExampleId id : book_.replay_candidates(kReplayRanked)) {
        const Example& example = *book_.find(id);
        if (!may_be(example)) { continue; }
        const ExampleIndex& index = *book_.index(example.partition);
        Replay replay{.example = id,
                      .tenant = example.tenant,
                      .partition = example.partition,
                      .question = example.question,
                      .answer = example.answer,
                      .trials = {}};
        for (const NearExample& near : index.nearest(index.vector_of(id), options_.candidates, options_.probes)) {
            if (near.similarity < options_.similarity_min || replay.trials.size() >= options_.replay_trials) { break; }
            const Example& other = *book_.find(near.example);
            CHECK(other.tenant == example.tenant);
            // A twin would be answered by its own answer, and other weights' answers are other answers.
            if (near.similarity >= options_.similarity_twin || other.revision != example.revision) { continue; }
            replay.trials.push_back({other.question, other.answer});
        }
        if (!replay.trials.empty()) { return replay; }
    }
    return std::nullopt;
}

InContextCache::Replayed InContextCache::replayed(const Replay& replay, std::string_view answer, double better) {
    const Example* example = book_.find(replay.example);
    if (example == nullptr || example->answer != replay.answer) { return Replayed::gone; }
    const bool is_better = better >= options_.replay_better_min && better > 0 && !is_personal(answer);
    const double room = 1 - example->answer_quality;  // above what live answers begin with: these do not replace it
    const double quality =
        is_better ? example->answer_quality + std::min(better, 1.0) * room : std::numeric_limits<double>::quiet_NaN();
    return book_.replayed(replay.example, answer, quality) ? Replayed::better : Replayed::no_better;
}

InContextCache::Counts InContextCache::counts() const {
    return {.book = book_.counts(),
            .small = router_.choices(Arm::small),
            .large = router_.choices(Arm::large),
            .comparisons = router_.comparisons(),
            .with_pack = with_pack_,
            .model_changes = router_.belief(Arm::small).changes() + router_.belief(Arm::large).changes(),
            .account = router_.account(),
            .load = meter_.mean()};
}

}  // namespace caching
