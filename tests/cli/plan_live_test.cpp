#include "cli/plan_live.h"

#include <set>
#include <string>

#include "cli/metrics_text.h"
#include "cli/top_view.h"

#include "tests/support/catch.h"

namespace {

using cli::LiveAdvice;
using cli::LiveCluster;
using cli::LiveLayout;
using cli::LiveOption;

cli::TopMoment moment(double seconds, const std::string& text) {
    cli::TopMoment made;
    made.at = base::TimePoint() + std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
    auto samples = cli::parse_metrics(text);
    if (!samples) { FAIL(samples.error().message); }
    made.sources.push_back({.url = "http://host:1", .samples = std::move(*samples), .problem = {}});
    return made;
}

std::string gateway(int answered, int refused, int prompt_tokens, int output_tokens, int good, int bad,
                    int cached_tokens = 0) {
    const auto row = [](const std::string& name, const std::string& labels, int value) {
        return name + "{model=\"m\"" + labels + "} " + std::to_string(value) + "\n";
    };
    const std::string slo = ",slo_class=\"default\",slo=\"all\",outcome=";
    return row("sluice_gateway_inflight_requests", "", 1) +
           row("sluice_gateway_requests_total", ",code=\"200\"", answered) +
           row("sluice_gateway_requests_total", ",code=\"429\"", refused) +
           row("sluice_gateway_tokens_total", ",kind=\"prompt\"", prompt_tokens) +
           row("sluice_gateway_tokens_total", ",kind=\"cached_prompt\"", cached_tokens) +
           row("sluice_gateway_tokens_total", ",kind=\"completion\"", output_tokens) +
           row("sluice_gateway_slo_requests_total", slo + "\"good\"", good) +
           row("sluice_gateway_slo_requests_total", slo + "\"bad\"", bad);
}

const std::string kWorkers =
    "sluice_scheduler_workers{model=\"m\",role=\"prefill\",state=\"ready\"} 2\n"
    "sluice_scheduler_workers{model=\"m\",role=\"prefill\",state=\"suspect\"} 1\n"
    "sluice_scheduler_workers{model=\"m\",role=\"decode\",state=\"ready\"} 1\n"
    "sluice_scheduler_workers{model=\"m\",role=\"decode\",state=\"draining\"} 1\n"
    "sluice_scheduler_workers{model=\"m\",role=\"mixed\",state=\"ready\"} 0\n";

LiveCluster cluster(LiveLayout layout, double rate) {
    LiveCluster live;
    live.model = "m";
    live.requests_per_s = rate;
    live.layout = layout;
    return live;
}

LiveOption option(LiveLayout layout, double goodput, double spread = 0) {
    return {layout, {.goodput = goodput, .low = goodput - spread, .high = goodput + spread, .binds = "TTFT"}};
}

}  // namespace

TEST_CASE("what a live cluster does is read from two looks at its metrics", "[cli][plan]") {
    const auto before = moment(10, gateway(100, 0, 1000, 500, 90, 10) + kWorkers);
    const auto now = moment(20, gateway(150, 10, 26'000, 3'500, 120, 20) + kWorkers);
    const auto live = cli::live_cluster(cli::top_view(now, &before), "");
    REQUIRE(live.has_value());
    CHECK(live->model == "m");
    CHECK(live->seconds == Approx(10));
    CHECK(live->requests_per_s == Approx(6));
    CHECK(live->answered_per_s == Approx(5));
    CHECK(live->prompt_tokens == Approx(500));
    CHECK(live->output_tokens == Approx(60));
    CHECK(live->cached_share == 0);
    REQUIRE(live->attainment.has_value());
    CHECK(*live->attainment == Approx(0.75));
    CHECK(live->layout == LiveLayout{.prefill = 3, .decode = 1, .mixed = 0});

    const auto workload = cli::live_workload(*live);
    REQUIRE(workload.has_value());
    CHECK(workload->rate == Approx(6));
    double prompt_tokens = 0;
    double output_tokens = 0;
    const auto drawn = sim::draw_requests(*workload, workload->rate, 50'000, 1);
    for (const sim::ClusterRequest& request : drawn) {
        prompt_tokens += request.prompt_tokens / static_cast<double>(drawn.size());
        output_tokens += request.output_tokens / static_cast<double>(drawn.size());
    }
    CHECK(prompt_tokens == Approx(500).epsilon(0.02));
    CHECK(output_tokens == Approx(60).epsilon(0.03));

    // What workers found, in a pool or below it, was not computed: the prompts that are planned for are shorter.
    const auto found = cli::live_cluster(
        cli::top_view(moment(20, gateway(150, 10, 26'000, 3'500, 120, 20, 10'000) + kWorkers), &before), "");
    REQUIRE(found.has_value());
    CHECK(found->cached_share == Approx(0.4));
    CHECK(found->prompt_tokens == Approx(500));
    CHECK(sim::size_of(*cli::live_workload(*found)).tokens_max < sim::size_of(*workload).tokens_max);

    const auto other = cli::live_cluster(cli::top_view(now, &before), "other");
    REQUIRE(!other.has_value());
    CHECK(other.error().message.find("served are m") != std::string::npos);
    const auto idle = cli::live_cluster(cli::top_view(now, &now), "m");
    REQUIRE(idle.has_value());
    CHECK(!cli::live_workload(*idle).has_value());
    CHECK(!idle->attainment.has_value());
    const auto gateway_alone = moment(30, gateway(150, 10, 26'000, 3'500, 120, 20));
    const auto blind = cli::live_cluster(cli::top_view(gateway_alone, &now), "m");
    REQUIRE(!blind.has_value());
    CHECK(blind.error().message.find("--admin-port") != std::string::npos);
    CHECK(!cli::live_cluster(cli::top_view(moment(1, "x 1\n"), nullptr), "").has_value());
}

TEST_CASE("lengths are drawn as the gateway's histograms have them", "[cli][plan]") {
    const auto buckets = [](const std::string& kind, int small, int large) {
        const auto row = [&kind](const std::string& edge, int count) {
            return "sluice_gateway_request_tokens_bucket{model=\"m\",kind=\"" + kind + "\",le=\"" + edge + "\"} " +
                   std::to_string(count) + "\n";
        };
        return row("64", 0) + row("96", small) + row("1024", small) + row("1536", small + large) +
               row("+Inf", small + large);
    };
    const auto before =
        moment(10, gateway(100, 0, 0, 0, 0, 0) + buckets("prompt", 7, 70) + buckets("completion", 70, 7) + kWorkers);
    // 90 prompts of about 80 tokens and 10 of about 1,280; answers the same.
    const auto now = moment(20, gateway(200, 0, 20'000, 20'000, 0, 0) + buckets("prompt", 97, 80) +
                                    buckets("completion", 160, 17) + kWorkers);
    const auto live = cli::live_cluster(cli::top_view(now, &before), "m");
    REQUIRE(live.has_value());
    REQUIRE(live->prompt_quantiles.size() == 17);
    CHECK(live->prompt_quantiles[0] == Approx(64).epsilon(0.01));
    CHECK(live->prompt_quantiles[8] == Approx(64 + 32 * 50.0 / 90).epsilon(0.01));
    CHECK(live->prompt_quantiles[16] == Approx(1536));
    CHECK(live->output_quantiles[8] == live->prompt_quantiles[8]);
    const auto workload = cli::live_workload(*live);
    REQUIRE(workload.has_value());
    CHECK(workload->name.find("histograms") != std::string::npos);
    double prompt_tokens = 0;
    const auto drawn = sim::draw_requests(*workload, workload->rate, 50'000, 1);
    for (const sim::ClusterRequest& request : drawn) {
        prompt_tokens += request.prompt_tokens / static_cast<double>(drawn.size());
    }
    CHECK(prompt_tokens == Approx(200).epsilon(0.02));
    CHECK(sim::size_of(*workload).tokens_max > 2000);
    // A process that began anew counts from its begin.
    const auto anew = moment(
        30, gateway(50, 0, 10'000, 10'000, 0, 0) + buckets("prompt", 50, 0) + buckets("completion", 50, 0) + kWorkers);
    const auto again = cli::live_cluster(cli::top_view(anew, &now), "m");
    REQUIRE(again.has_value());
    CHECK(again->prompt_quantiles[16] == Approx(96));
}

TEST_CASE("every division of a few workers is looked at, and some of many", "[cli][plan]") {
    CHECK(cli::live_layouts(1) == std::vector<LiveLayout>{{.mixed = 1}});
    const auto of_four = cli::live_layouts(4);
    REQUIRE(of_four.size() == 4);
    for (std::uint32_t prefill = 1; prefill < 4; ++prefill) {
        CHECK(of_four[prefill] == LiveLayout{.prefill = prefill, .decode = 4 - prefill, .mixed = 0});
    }
    const auto of_many = cli::live_layouts(1000);
    CHECK(of_many.size() == 17);
    std::set<std::uint32_t> seen;
    for (std::size_t i = 1; i < of_many.size(); ++i) {
        CHECK(of_many[i].workers() == 1000);
        CHECK(of_many[i].prefill > 0);
        CHECK(of_many[i].decode > 0);
        seen.insert(of_many[i].prefill);
    }
    CHECK(seen.size() == 16);
}

TEST_CASE("roles are changed for what is clearly better and needed, and for nothing else", "[cli][plan]") {
    const LiveLayout now{.prefill = 1, .decode = 3, .mixed = 0};
    const LiveLayout better{.prefill = 3, .decode = 1, .mixed = 0};
    const LiveLayout mixed{.prefill = 0, .decode = 0, .mixed = 4};

    const auto flips = cli::advise(cluster(now, 10), {option(better, 12), option(now, 8), option(mixed, 7)});
    CHECK(flips.flips == std::vector<LiveAdvice::Flip>{{"decode", "prefill", 2}});
    CHECK(flips.workers_more == 0);
    CHECK(flips.why.find("TTFT") != std::string::npos);
    const auto merged = cli::advise(cluster(now, 10), {option(mixed, 12), option(now, 8)});
    CHECK(merged.flips == std::vector<LiveAdvice::Flip>{{"prefill", "mixed", 1}, {"decode", "mixed", 3}});

    // There is room; or the difference is small; or within what seeds differ by.
    CHECK(cli::advise(cluster(now, 2), {option(better, 12), option(now, 8)}).flips.empty());
    CHECK(cli::advise(cluster(now, 10), {option(better, 8.5), option(now, 8)}).flips.empty());
    CHECK(cli::advise(cluster(now, 10), {option(better, 12, 3), option(now, 8, 1)}).flips.empty());
    CHECK(cli::advise(cluster(now, 10), {option(now, 8), option(better, 7)}).flips.empty());

    // More come than any layout bears: at 3 a worker 40 need 14.
    const auto more = cli::advise(cluster(now, 40), {option(better, 12), option(now, 8)});
    CHECK(more.flips.size() == 1);
    CHECK(more.workers_more == 10);
    const auto hopeless = cli::advise(cluster(now, 40), {option(better, 0), option(now, 0)});
    CHECK(hopeless.flips.empty());
    CHECK(hopeless.workers_more == 0);
    const auto of_both = cli::advise(cluster({.prefill = 1, .decode = 1, .mixed = 2}, 10), {option(better, 12)});
    CHECK(of_both.flips.empty());
    CHECK(of_both.why.find("cannot be compared") != std::string::npos);
}
