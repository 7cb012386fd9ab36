#include "bench/cache_churn.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/cpu_times.h"
#include "caching/semantic/semantic_cache.h"

namespace bench {
namespace {

namespace json = boost::json;

constexpr std::size_t kWordsOfLabel = 6;

/// Draws ranks by their weight rank^-skew.
class Ranks {
public:
    Ranks(std::uint64_t count, double skew) {
        double sum = 0;
        for (std::uint64_t rank = 1; rank <= std::max<std::uint64_t>(count, 1); ++rank) {
            sum += std::pow(static_cast<double>(rank), -skew);
            sums_.push_back(sum);
        }
    }
    std::uint64_t draw(std::mt19937_64& random) const {
        const double at = std::uniform_real_distribution<double>(0, sums_.back())(random);
        const auto found = std::upper_bound(sums_.begin(), sums_.end(), at);
        return std::min(static_cast<std::uint64_t>(found - sums_.begin()), std::uint64_t{sums_.size() - 1});
    }

private:
    std::vector<double> sums_;
};

/// A word of three syllables, the same for the same number.
std::string word_of(std::uint64_t number) {
    constexpr std::string_view kOnsets = "bcdfghklmnprstvwz";
    constexpr std::string_view kVowels = "aeiou";
    std::string word;
    for (int syllable = 0; syllable < 3; ++syllable) {
        word += kOnsets[number % kOnsets.size()];
        number /= kOnsets.size();
        word += kVowels[number % kVowels.size()];
        number /= kVowels.size();
    }
    return word;
}

/// A wording of a question: the label's words, with one more that only this wording has, in a frame of its own.
std::string text_of(std::uint64_t label, std::uint64_t wording) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kFrames = {std::pair{"How do I ", "?"},
                                                                                      {"Please tell me how to ", "."},
                                                                                      {"What is the way to ", "?"},
                                                                                      {"Explain how one can ", "."}};
    std::mt19937_64 of_label(label * 0x9e3779b97f4a7c15ULL + 1);
    const auto& [before, after] = kFrames[wording % kFrames.size()];
    std::string text(before);
    for (std::size_t i = 0; i < kWordsOfLabel; ++i) {
        text += word_of(of_label()) + ' ';
    }
    return text + "at " + word_of(wording + 7'000'000) + std::string(after);
}

/// The hashed embedder, whose time is counted apart.
class TimedEmbedder final : public caching::Embedder {
public:
    explicit TimedEmbedder(caching::HashedEmbedder& inner) : inner_(inner) {}
    std::string name() const override { return inner_.name(); }
    std::size_t dimensions() const override { return inner_.dimensions(); }
    base::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override {
        const auto wall = std::chrono::steady_clock::now();
        const double cpu = CpuTimes::cpu_us();
        auto vectors = inner_.embed(texts);
        wall_us += std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - wall).count();
        cpu_us += CpuTimes::cpu_us() - cpu;
        return vectors;
    }
    double wall_us = 0;
    double cpu_us = 0;

private:
    caching::HashedEmbedder& inner_;
};

std::uint64_t resident_bytes() {
    std::ifstream file("/proc/self/statm");
    std::uint64_t all = 0;
    std::uint64_t resident = 0;
    file >> all >> resident;
    return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

struct Hour {
    std::uint64_t requests = 0;
    std::uint64_t exact = 0;
    std::uint64_t similar = 0;
    std::uint64_t wrong = 0;
    std::uint64_t entries = 0;  // at its end
};

caching::SemanticCacheOptions cache_options(const CacheChurnOptions& options) {
    caching::SemanticCacheOptions result;
    result.entries_max = options.entries;
    result.bytes_max = std::size_t{1} << 40;  // entries are the bound
    result.graph_from = options.graph_from;
    result.seed = options.seed;
    for (caching::CategoryPolicy& policy : result.categories) {
        policy.semantic = true;
        policy.ttl_ms = static_cast<std::int64_t>(options.ttl_hours * 3'600'000);
        policy.quota_share = 1.0;
    }
    return result;
}

}  // namespace

json::object play_cache_churn(const CacheChurnOptions& options) {
    base::FakeClock clock;
    caching::HashedEmbedder hashed;
    TimedEmbedder embedder(hashed);
    const std::uint64_t resident_before = resident_bytes();
    caching::SemanticCache cache(cache_options(options), clock, embedder, hashed);
    std::mt19937_64 random(options.seed);
    const Ranks tenants(options.tenants, options.tenant_skew);
    const Ranks labels(options.labels, options.label_skew);
    const auto step =
        std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(1.0 / options.per_second));
    CpuTimes lookups;
    CpuTimes stores;

    const auto ask = [&](Hour& hour, bool is_measured) {
        const std::uint64_t tenant = tenants.draw(random);
        const std::uint64_t label = tenant * options.labels + labels.draw(random);
        caching::Question question;
        question.tenant = "tenant-" + std::to_string(tenant);
        question.model = "m";
        question.messages = {{"user", text_of(label, random() % std::max<std::uint64_t>(options.wordings, 1))}};
        const double embedded_wall = embedder.wall_us;
        const double embedded_cpu = embedder.cpu_us;
        const auto wall = std::chrono::steady_clock::now();
        const double cpu = CpuTimes::cpu_us();
        caching::Lookup found = cache.lookup(question);
        if (is_measured) {
            const double took =
                std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - wall).count();
            lookups.add(took - (embedder.wall_us - embedded_wall),
                        CpuTimes::cpu_us() - cpu - (embedder.cpu_us - embedded_cpu));
        }
        ++hour.requests;
        caching::Answer answer;
        answer.content = "the answer of " + std::to_string(label);
        if (found.kind == caching::HitKind::none) {
            const auto store = [&] {
                cache.store(question, std::move(found.probe), answer);
                return true;
            };
            is_measured ? stores.timed(store) : store();
            return;
        }
        const auto served = caching::from_document(found.document);
        hour.wrong += served && served->content == answer.content ? 0 : 1;
        found.kind == caching::HitKind::exact ? ++hour.exact : ++hour.similar;
        if (found.shadow_wanted) { cache.observe_shadow(question, std::move(found.probe), answer); }
    };

    Hour filling;
    const std::uint64_t fill_most = options.entries * 8;  // questions that come again fill nothing
    while (cache.counts().entries < options.entries * 9 / 10 && filling.requests < fill_most) {
        clock.advance(step);
        ask(filling, false);
    }
    const std::uint64_t resident_full = resident_bytes();
    const std::size_t entries_full = cache.counts().entries;

    std::vector<Hour> hours;
    const auto requests = static_cast<std::uint64_t>(options.hours * 3600 * options.per_second);
    const auto per_hour = std::max<std::uint64_t>(static_cast<std::uint64_t>(3600 * options.per_second), 1);
    for (std::uint64_t count = 0; count < requests; ++count) {
        if (count % per_hour == 0) { hours.emplace_back(); }
        clock.advance(step);
        ask(hours.back(), true);
        hours.back().entries = cache.counts().entries;
    }

    const auto share = [](std::uint64_t part, std::uint64_t whole) {
        return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
    };
    json::array by_hour;
    Hour all;
    for (const Hour& hour : hours) {
        by_hour.push_back(json::object{{"requests", hour.requests},
                                       {"hit_share", share(hour.exact + hour.similar, hour.requests)},
                                       {"wrong", hour.wrong},
                                       {"entries", hour.entries}});
        all.requests += hour.requests;
        all.exact += hour.exact;
        all.similar += hour.similar;
        all.wrong += hour.wrong;
    }
    const caching::CacheCounts counts = cache.counts();
    return {{"entries_max", options.entries},
            {"tenants", options.tenants},
            {"tenant_skew", options.tenant_skew},
            {"graph_from", options.graph_from},
            {"hours", options.hours},
            {"filled_by_requests", filling.requests},
            {"requests", all.requests},
            {"hits_exact", all.exact},
            {"hits_semantic", all.similar},
            {"wrong", all.wrong},
            {"wrong_share_of_hits", share(all.wrong, all.exact + all.similar)},
            {"entries", counts.entries},
            {"partitions", counts.partitions},
            {"evicted", counts.evicted},
            {"expired", counts.expired},
            {"turned_away", counts.turned_away},
            {"bytes_per_entry_counted", share(counts.bytes, counts.entries)},
            {"bytes_per_entry_resident_when_full", share(resident_full - resident_before, entries_full)},
            {"bytes_per_entry_resident_at_the_end", share(resident_bytes() - resident_before, counts.entries)},
            {"lookup_us", lookups.wall()},  // without the embedding
            {"lookup_cpu_us", lookups.cpu()},
            {"store_us", stores.wall()},
            {"store_cpu_us", stores.cpu()},
            {"by_hour", by_hour}};
}

int bench_cache_churn_main(const CacheChurnOptions& options) {
    const std::string text = json::serialize(play_cache_churn(options));
    if (options.out_path == "-") {
        std::printf("%s\n", text.c_str());
        return 0;
    }
    std::ofstream file{options.out_path};
    file << text << '\n';
    file.close();
    if (!file) { std::fprintf(stderr, "bench cache-churn: cannot write %s\n", options.out_path.c_str()); }
    return file ? 0 : 1;
}

void add_bench_cache_churn(CLI::App& app, CacheChurnOptions& options) {
    const auto count = CLI::Range(std::uint64_t{1}, std::uint64_t{100'000'000});
    app.add_option("--entries", options.entries, "that the cache may keep")->check(count)->capture_default_str();
    app.add_option("--tenants", options.tenants, "each with questions of its own")->check(count)->capture_default_str();
    app.add_option("--tenant-skew", options.tenant_skew, "of their shares, by rank; 0: all alike")
        ->check(CLI::Range(0.0, 4.0))
        ->capture_default_str();
    app.add_option("--labels", options.labels, "different answers of a tenant")->check(count)->capture_default_str();
    app.add_option("--label-skew", options.label_skew, "of how often they are asked for, by rank")
        ->check(CLI::Range(0.0, 4.0))
        ->capture_default_str();
    app.add_option("--wordings", options.wordings, "of the question of each answer")
        ->check(count)
        ->capture_default_str();
    app.add_option("--hours", options.hours, "of the virtual clock, once the cache is full")
        ->check(CLI::Range(0.0, 1000.0))
        ->capture_default_str();
    app.add_option("--per-second", options.per_second, "requests")
        ->check(CLI::Range(0.001, 1e5))
        ->capture_default_str();
    app.add_option("--graph-from", options.graph_from,
                   "questions of one tenant on they are searched by a graph and no scan")
        ->check(count)
        ->capture_default_str();
    app.add_option("--ttl-hours", options.ttl_hours, "of every answer")
        ->check(CLI::Range(0.001, 1e4))
        ->capture_default_str();
    app.add_option("--seed", options.seed, "of what is asked")->capture_default_str();
    app.add_option("--out", options.out_path, "JSON; -: standard output")->capture_default_str();
}

}  // namespace bench
