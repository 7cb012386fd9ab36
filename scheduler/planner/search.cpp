#include "scheduler/planner/search.h"

#include <algorithm>
#include <cmath>

namespace scheduler::planner {
namespace {

std::string split_text(const Split& split) {
    return "TP" + std::to_string(split.tensor) +
           (split.pipeline > 1 ? " PP" + std::to_string(split.pipeline) : std::string());
}

/// Units of all that are wanted, and what they come to.
PlanRow make_row(const SearchSpace& space, const Candidate& candidate, Evaluation evaluation) {
    PlanRow row;
    row.candidate = candidate;
    row.evaluation = std::move(evaluation);
    const double cost = candidate.gpus() * space.gpus[candidate.gpu].cost;
    if (space.gpus_max) {
        row.units = *space.gpus_max / candidate.gpus();
    } else if (space.rate && row.evaluation.goodput > 0) {
        row.units = static_cast<std::uint32_t>(std::min(1e6, std::ceil(*space.rate / row.evaluation.goodput)));
    }
    if (const std::uint32_t workers = space.gpus[candidate.gpu].workers_at_once; workers > 0) {
        const std::uint32_t most = std::max(1u, workers / candidate.gpus());
        row.is_cut = row.units > most;
        row.units = std::min(row.units, most);
    }
    row.goodput = row.units * row.evaluation.goodput;
    row.cost = row.units * cost;
    row.goodput_per_cost = row.evaluation.goodput / cost;
    return row;
}

bool is_better(const SearchSpace& space, const PlanRow& a, const PlanRow& b) {
    const bool a_serves = a.evaluation.goodput > 0 && a.units > 0;
    const bool b_serves = b.evaluation.goodput > 0 && b.units > 0;
    if (a_serves != b_serves) { return a_serves; }
    if (space.rate && !space.gpus_max && a.is_cut != b.is_cut) { return b.is_cut; }
    if (space.rate && a.is_cut && a.goodput != b.goodput) { return a.goodput > b.goodput; }
    if (space.rate && !space.gpus_max && a_serves && a.cost != b.cost) { return a.cost < b.cost; }
    if (space.gpus_max && a.goodput != b.goodput) { return a.goodput > b.goodput; }
    if (a.goodput_per_cost != b.goodput_per_cost) { return a.goodput_per_cost > b.goodput_per_cost; }
    if (a.candidate.gpus() != b.candidate.gpus()) { return a.candidate.gpus() < b.candidate.gpus(); }
    return a.candidate.kind == Candidate::Kind::colocated && b.candidate.kind != Candidate::Kind::colocated;
}

/// Units of both phases, ranked by what the phases alone let them hope for.
std::vector<Candidate> joint_candidates(const SearchSpace& space, std::size_t gpu, const std::vector<PlanRow>& phases) {
    struct Hope {
        Candidate candidate;
        double per_gpu;
    };
    std::vector<Hope> hopes;
    const std::uint32_t node = space.gpus[gpu].per_node;
    for (const PlanRow& prefill : phases) {
        if (prefill.candidate.kind != Candidate::Kind::prefill_alone || prefill.candidate.gpu != gpu) { continue; }
        for (const PlanRow& decode : phases) {
            if (decode.candidate.kind != Candidate::Kind::decode_alone || decode.candidate.gpu != gpu) { continue; }
            if (prefill.evaluation.goodput <= 0 || decode.evaluation.goodput <= 0) { continue; }
            Candidate candidate = prefill.candidate;
            candidate.kind = Candidate::Kind::split;
            candidate.decode = decode.candidate.decode;
            for (candidate.prefill_count = 1; candidate.prefill_count <= space.pool_max; ++candidate.prefill_count) {
                for (candidate.decode_count = 1; candidate.decode_count <= space.pool_max; ++candidate.decode_count) {
                    if (!space.has_high_affinity && candidate.gpus() > node) { continue; }
                    if (space.gpus_max && candidate.gpus() > *space.gpus_max) { continue; }
                    const double both = std::min(candidate.prefill_count * prefill.evaluation.goodput,
                                                 candidate.decode_count * decode.evaluation.goodput);
                    hopes.push_back({candidate, both / candidate.gpus()});
                }
            }
        }
    }
    // A smaller unit is preferred where it hopes for nearly as much: it also serves small rates well.
    std::stable_sort(hopes.begin(), hopes.end(), [](const Hope& a, const Hope& b) {
        const auto score = [](const Hope& hope) { return hope.per_gpu * (1 - 0.01 * hope.candidate.gpus()); };
        return score(a) > score(b);
    });
    std::vector<Candidate> best;
    for (std::size_t i = 0; i < hopes.size() && best.size() < space.joint_max; ++i) {
        best.push_back(hopes[i].candidate);
    }
    return best;
}

}  // namespace

std::uint32_t Candidate::gpus() const {
    switch (kind) {
        case Kind::colocated:
        case Kind::prefill_alone:
            return prefill.gpus() * prefill_count;
        case Kind::decode_alone:
            return decode.gpus() * decode_count;
        case Kind::split:
            break;
    }
    return prefill.gpus() * prefill_count + decode.gpus() * decode_count;
}

std::string Candidate::text() const {
    const std::string steps = ", steps of " + std::to_string(step_tokens);
    switch (kind) {
        case Kind::colocated:
            return "mixed " + split_text(prefill) + steps;
        case Kind::prefill_alone:
            return "prefill alone " + split_text(prefill) + steps;
        case Kind::decode_alone:
            return "decode alone " + split_text(decode);
        case Kind::split:
            break;
    }
    return std::to_string(prefill_count) + " prefill " + split_text(prefill) + ", " + std::to_string(decode_count) +
           " decode " + split_text(decode) + steps;
}

base::Result<SearchResult> search(const SearchSpace& space, const Evaluate& evaluate, const Evaluate& refine) {
    SearchResult result;
    const auto fits = [&](const Candidate& candidate) {
        return !space.gpus_max || candidate.gpus() <= *space.gpus_max;
    };
    const auto try_one = [&](const Candidate& candidate, std::vector<PlanRow>& rows) {
        if (fits(candidate)) { rows.push_back(make_row(space, candidate, evaluate(candidate))); }
    };
    for (std::size_t gpu = 0; gpu < space.gpus.size(); ++gpu) {
        for (const Split& split : space.gpus[gpu].splits) {
            Candidate candidate;
            candidate.gpu = gpu;
            candidate.prefill = candidate.decode = split;
            for (const std::uint32_t tokens : space.step_tokens) {
                candidate.step_tokens = tokens;
                candidate.kind = Candidate::Kind::colocated;
                try_one(candidate, result.rows);
            }
            candidate.step_tokens = space.step_tokens.back();  // nobody decodes beside it: large steps
            candidate.kind = Candidate::Kind::prefill_alone;
            try_one(candidate, result.phases);
            candidate.kind = Candidate::Kind::decode_alone;
            try_one(candidate, result.phases);
        }
        for (const Candidate& candidate : joint_candidates(space, gpu, result.phases)) {
            try_one(candidate, result.rows);
        }
    }
    for (const Candidate& candidate : space.also) {
        const auto is_it = [&](const PlanRow& row) { return row.candidate == candidate; };
        if (std::none_of(result.rows.begin(), result.rows.end(), is_it)) { try_one(candidate, result.rows); }
    }
    if (result.rows.empty()) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          "no split of the model fits: more or larger GPUs are needed, or a smaller weight format");
    }
    const auto sort = [&] {
        std::stable_sort(result.rows.begin(), result.rows.end(), [&](const PlanRow& a, const PlanRow& b) {
            return a.is_refined != b.is_refined ? a.is_refined : is_better(space, a, b);
        });
    };
    sort();
    if (!refine) { return result; }
    bool has_kind[2] = {};
    for (std::size_t i = 0; i < result.rows.size(); ++i) {
        PlanRow& row = result.rows[i];
        bool& has = has_kind[row.candidate.kind == Candidate::Kind::colocated ? 0 : 1];
        const bool is_wanted = std::find(space.also.begin(), space.also.end(), row.candidate) != space.also.end();
        if (i >= space.refined_max && has && !is_wanted) { continue; }
        has = true;
        row = make_row(space, row.candidate, refine(row.candidate));
        row.is_refined = true;
    }
    sort();
    return result;
}

}  // namespace scheduler::planner
