#include "sim/workload.h"

#include <cmath>

#include "sim/goodput.h"

#include "tests/support/catch.h"

using sim::draw_requests;
using sim::read_fit;
using sim::Workload;
using sim::workload_of;

namespace {

Workload fixed(double burstiness) {
    Workload workload;
    workload.burstiness = burstiness;
    workload.lengths = {{100, 11}};
    return workload;
}

}  // namespace

TEST_CASE("what is drawn has the rate and the burstiness that were asked for", "[sim]") {
    for (const double burstiness : {0.0, 0.5, 1.0, 3.0}) {
        CAPTURE(burstiness);
        const auto requests = draw_requests(fixed(burstiness), 20, 200'000, 7);
        const Workload seen = workload_of(requests, "");
        REQUIRE(seen.rate == Approx(20).epsilon(0.03));
        REQUIRE(seen.burstiness == Approx(burstiness).epsilon(0.03).margin(1e-6));
    }
    REQUIRE(draw_requests(fixed(1), 5, 10, 3)[9].arrival_s == draw_requests(fixed(1), 5, 10, 3)[9].arrival_s);
    REQUIRE(draw_requests(fixed(1), 5, 10, 3)[9].arrival_s != draw_requests(fixed(1), 5, 10, 4)[9].arrival_s);
}

TEST_CASE("a fit is read as it was written, and draws what it was made from", "[sim]") {
    std::vector<sim::ClusterRequest> trace;
    for (std::uint32_t i = 0; i < 1000; ++i) {
        trace.push_back({i * 0.25, 100 + i, 1 + i / 10});
    }
    const auto fit = read_fit(sim::fit_yaml(workload_of(trace, "t")), "fit.yaml");
    REQUIRE(fit);
    REQUIRE(fit->rate == Approx(4));
    REQUIRE(fit->burstiness == Approx(0).margin(1e-6));
    REQUIRE(fit->lengths.empty());
    double prompts = 0;
    double outputs = 0;
    for (const auto& request : draw_requests(*fit, 1, 20'000, 1)) {
        prompts += request.prompt_tokens / 20'000.0;
        outputs += request.output_tokens / 20'000.0;
    }
    REQUIRE(prompts == Approx(600).epsilon(0.02));
    REQUIRE(outputs == Approx(50.5).epsilon(0.03));
}

TEST_CASE("what is wrong with a fit is told with its key", "[sim]") {
    const auto refused = [](const char* text) { return read_fit(text, "f.yaml").error().message; };
    REQUIRE(refused("rate: 1\n").find("prompt_tokens") != std::string::npos);
    REQUIRE(refused("prompt_tokens: [3, 2]\noutput_tokens: [1]\n").find("prompt_tokens") != std::string::npos);
    REQUIRE(refused("prompt_tokens: [3]\noutput_tokens: [x]\n").find("output_tokens") != std::string::npos);
    REQUIRE(refused("prompt_tokens: [3]\noutput_tokens: [1]\nratee: 2\n").find("ratee") != std::string::npos);
    REQUIRE(refused("rate: [").find("f.yaml") != std::string::npos);
}

TEST_CASE("goodput is where the queue begins to hurt", "[sim]") {
    scheduler::planner::StepTimes times;
    times.fitted = scheduler::planner::FittedForms{
        .prefill = {0.1, 0, 0}, .decode_small = {1e-3, 0, 0}, .decode_large = {1e-3, 0, 0}, .large_from = 1e9};
    sim::ClusterShape shape;
    shape.prefill = shape.decode = 1;
    shape.prefill_worker = {.times = &times, .tokens_max = 100};
    shape.decode_worker = {.times = &times};
    // One prompt takes 0.1 s, so ten a second is the most; nine of ten within 1 s is M/D/1 at a little below that.
    const auto loose = sim::find_goodput(shape, fixed(1), {.ttft_s = 1, .tpot_s = 0.1});
    REQUIRE(loose.low > 7);
    REQUIRE(loose.high < 10.5);
    REQUIRE(loose.low <= loose.mean);
    REQUIRE(loose.mean <= loose.high);
    REQUIRE(loose.binds.find("TTFT: prefill") == 0);
    // Below the time of the prompt itself there is none.
    REQUIRE(sim::find_goodput(shape, fixed(1), {.ttft_s = 0.05, .tpot_s = 0.1}).mean == 0);
    // Two of them do twice as much.
    shape.prefill = 2;
    REQUIRE(sim::find_goodput(shape, fixed(1), {.ttft_s = 1, .tpot_s = 0.1}).mean ==
            Approx(2 * loose.mean).epsilon(0.15));
}
