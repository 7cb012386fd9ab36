#include <fstream>
#include <map>
#include <utility>

#include "bench/cache_replay.h"
#include "caching/semantic/answer_judge.h"

namespace bench {
namespace {

using base::ErrorCode;

/// What the judge made of pairs of one kind.
struct Judged {
    std::uint64_t same = 0;
    std::uint64_t same_found = 0;
    std::uint64_t different = 0;
    std::uint64_t different_missed = 0;
};

boost::json::object json_of(const Judged& judged) {
    const auto rate = [](std::uint64_t part, std::uint64_t whole) -> boost::json::value {
        if (whole == 0) { return nullptr; }
        return static_cast<double>(part) / static_cast<double>(whole);
    };
    return {{"same", judged.same},
            {"same_found", judged.same_found},
            {"same_found_rate", rate(judged.same_found, judged.same)},
            {"different", judged.different},
            {"taken_for_same", judged.different_missed},
            {"taken_for_same_rate", rate(judged.different_missed, judged.different)}};
}

std::string text_of(const boost::json::object& fields, std::string_view name) {
    const boost::json::value* value = fields.if_contains(name);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace

base::Result<boost::json::object> score_answers(const CacheBenchOptions& options) {
    const auto lines = read_lines(options.answers_path);
    if (!lines) { return base::pass_on(lines); }
    std::ofstream decisions;
    if (!options.decisions_path.empty()) { decisions.open(options.decisions_path); }
    std::map<std::string, Judged> by_kind;
    std::map<std::string, Judged> by_half;
    for (std::size_t i = 0; i < lines->size(); ++i) {
        if ((*lines)[i].empty()) { continue; }
        boost::system::error_code error;
        const boost::json::value parsed = boost::json::parse((*lines)[i], error);
        const boost::json::object* fields = error ? nullptr : parsed.if_object();
        const boost::json::value* label = fields == nullptr ? nullptr : fields->if_contains("label");
        if (label == nullptr || !label->is_int64() || !fields->contains("a") || !fields->contains("b")) {
            return base::fail(ErrorCode::invalid_argument, options.answers_path + ": line " + std::to_string(i + 1) +
                                                               " is no pair: a JSON object with 'a', 'b' and 'label'");
        }
        const auto judgement = caching::judge_answers(text_of(*fields, "a"), text_of(*fields, "b"));
        const std::string half = text_of(*fields, "half");
        Judged* of_kind = half == "learn" ? nullptr : &by_kind[text_of(*fields, "kind")];
        for (Judged* judged : {&by_half[half], of_kind}) {
            if (judged == nullptr) { continue; }
            const bool same = label->get_int64() == 1;
            (same ? judged->same : judged->different) += 1;
            if (judgement.same) { (same ? judged->same_found : judged->different_missed) += 1; }
        }
        if (decisions.is_open()) {
            const auto terms = caching::terms_of(judgement.evidence);
            boost::json::array listed;
            // Of what was weighed: neither equal words nor too long, and nothing that contradicts.
            if (judgement.probability > 0 && judgement.probability < 1 && !judgement.evidence.contradicts) {
                listed = boost::json::array(terms.begin(), terms.end());
            }
            decisions << boost::json::serialize(boost::json::object{{"line", i},
                                                                    {"same", judgement.same},
                                                                    {"probability", judgement.probability},
                                                                    {"terms", std::move(listed)}})
                      << '\n';
        }
    }
    boost::json::object report;
    boost::json::object kinds;
    for (const auto& [name, judged] : by_kind) {
        kinds[name] = json_of(judged);
    }
    boost::json::object halves;
    for (const auto& [name, judged] : by_half) {
        halves[name.empty() ? "all" : name] = json_of(judged);
    }
    report["by_half"] = std::move(halves);
    report["by_kind"] = std::move(kinds);  // of what was not learnt from
    return report;
}

}  // namespace bench
