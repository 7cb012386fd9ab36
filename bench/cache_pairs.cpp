#include <algorithm>
#include <fstream>
#include <map>
#include <utility>

#include "bench/cache_replay.h"
#include "bench/packed_file.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

/// One side of a pair: a text, or an object with earlier turns of the user and the text.
Result<caching::Question> question_of(const boost::json::value& side) {
    caching::Question question;
    question.tenant = "pairs";
    question.model = "played";
    const boost::json::value* text = &side;
    if (const boost::json::object* fields = side.if_object()) {
        const boost::json::value* history = fields->if_contains("history");
        text = fields->if_contains("q");
        if (history != nullptr && history->is_array()) {
            for (const boost::json::value& turn : history->get_array()) {
                if (turn.is_string()) { question.messages.push_back({"user", std::string(turn.get_string())}); }
            }
        }
    }
    if (text == nullptr || !text->is_string()) {
        return base::fail(ErrorCode::invalid_argument, "a side is neither a text nor an object with 'history' and 'q'");
    }
    question.messages.push_back({"user", std::string(text->get_string())});
    return question;
}

struct Kind {
    std::uint64_t positives = 0;
    std::uint64_t positives_hit = 0;
    std::uint64_t negatives = 0;
    std::uint64_t negatives_hit = 0;
    std::map<std::string, std::uint64_t> gates;
};

boost::json::object json_of(const Kind& kind) {
    const auto rate = [](std::uint64_t part, std::uint64_t whole) -> boost::json::value {
        if (whole == 0) { return nullptr; }
        return static_cast<double>(part) / static_cast<double>(whole);
    };
    boost::json::object gates;
    for (const auto& [name, count] : kind.gates) {
        gates[name] = count;
    }
    return {{"positives", kind.positives},
            {"true_positives", kind.positives_hit},
            {"true_positive_rate", rate(kind.positives_hit, kind.positives)},
            {"negatives", kind.negatives},
            {"false_positives", kind.negatives_hit},
            {"false_positive_rate", rate(kind.negatives_hit, kind.negatives)},
            {"precision", rate(kind.positives_hit, kind.positives_hit + kind.negatives_hit)},
            {"kept_back_by_gate", std::move(gates)}};
}

}  // namespace

Result<std::vector<std::string>> read_lines(const std::string& path) {
    const auto text = read_packed(path, std::size_t{4} << 30);
    if (!text) { return base::pass_on(text); }
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text->size();) {
        std::size_t end = text->find('\n', at);
        if (end == std::string::npos) { end = text->size(); }
        lines.push_back(text->substr(at, end - at));
        at = end + 1;
    }
    if (lines.empty()) { return base::fail(ErrorCode::invalid_argument, path + " is empty"); }
    return lines;
}

Result<caching::SemanticCacheOptions> read_cache_options(const std::string& config_path) {
    caching::SemanticCacheOptions options;
    base::Config config;
    if (!config_path.empty()) {
        if (auto read = config.add_file(config_path); !read) { return base::pass_on(read); }
    }
    caching::read_semantic_options(config, options);
    if (auto finished = config.finish(); !finished) { return base::pass_on(finished); }
    return options;
}

Result<boost::json::object> score_pairs(const CacheBenchOptions& options, caching::Embedder& embedder) {
    const auto lines = read_lines(options.pairs_path);
    if (!lines) { return base::pass_on(lines); }
    auto settings = read_cache_options(options.config_path);
    if (!settings) { return base::pass_on(settings); }
    settings->seed = options.seed;
    const base::FakeClock clock;
    const caching::HashedEmbedder hashed;
    std::map<std::string, Kind> kinds;
    Kind all;
    std::ofstream decisions;
    if (!options.decisions_path.empty()) { decisions.open(options.decisions_path); }
    for (std::size_t i = 0; i < lines->size(); ++i) {
        const auto wrong = [&](const std::string& what) {
            return base::fail(ErrorCode::invalid_argument,
                              options.pairs_path + ": line " + std::to_string(i + 1) + ": " + what);
        };
        if ((*lines)[i].empty()) { continue; }
        boost::system::error_code error;
        const boost::json::value parsed = boost::json::parse((*lines)[i], error);
        const boost::json::object* fields = error ? nullptr : parsed.if_object();
        if (fields == nullptr || !fields->contains("a") || !fields->contains("b") || !fields->contains("label")) {
            return wrong("no pair: a JSON object with 'a', 'b' and 'label'");
        }
        auto first = question_of(fields->at("a"));
        if (!first) { return wrong(first.error().message); }
        auto second = question_of(fields->at("b"));
        if (!second) { return wrong(second.error().message); }
        const boost::json::value& label = fields->at("label");
        const bool same = label.is_int64() ? label.get_int64() == 1 : label.is_bool() && label.get_bool();
        const boost::json::value* named = fields->if_contains("kind");
        const std::string kind = named != nullptr && named->is_string() ? std::string(named->get_string()) : "pairs";

        caching::SemanticCache cache(*settings, clock, embedder, hashed);
        caching::Answer answer;
        answer.content = "the answer";
        caching::Lookup before = cache.lookup(*first);
        cache.store(*first, std::move(before.probe), answer);
        const caching::Lookup found = cache.lookup(*second);
        const bool hit = found.kind != caching::HitKind::none;
        for (Kind* counted : {&all, &kinds[kind]}) {
            (same ? counted->positives : counted->negatives) += 1;
            if (hit) { (same ? counted->positives_hit : counted->negatives_hit) += 1; }
            if (!hit && found.gate != caching::Gate::none) { ++counted->gates[caching::gate_name(found.gate)]; }
        }
        if (decisions.is_open()) {
            decisions << boost::json::serialize(boost::json::object{{"line", i},
                                                                    {"hit", hit},
                                                                    {"label", same},
                                                                    {"gate", caching::gate_name(found.gate)},
                                                                    {"similarity", found.probe.evidence.similarity},
                                                                    {"unmatched", found.probe.evidence.unmatched},
                                                                    {"probability", found.probe.probability}})
                      << '\n';
        }
    }
    boost::json::object report = json_of(all);
    report["embedder"] = embedder.name();
    report["pairs"] = all.positives + all.negatives;
    boost::json::object by_kind;
    for (const auto& [name, kind] : kinds) {
        by_kind[name] = json_of(kind);
    }
    report["by_kind"] = std::move(by_kind);
    return report;
}

}  // namespace bench
